// Times of the words of a clip: which one is heard.

export class Captions {
  /** @param {string} script The text as it was sent. */
  constructor(script) {
    this.script = script;
    this.words = []; // in order, with `start` and `end` in seconds, `start_char` and `end_char` in characters
    // Of each character, and of the end: its place in UTF-16 units.
    this.places = [0];
    for (const character of script) this.places.push(this.places.at(-1) + character.length);
  }

  add(words) {
    this.words.push(...words);
  }

  /**
   * Place of the word that is heard.
   * @param {number} seconds Position in the clip.
   * @param {string} text Text that is shown; in another one than the script no word has a place.
   * @returns {{begin: number, end: number}|null} In UTF-16 units.
   */
  placeAt(seconds, text) {
    const word = this.words.findLast(({ start }) => start <= seconds);
    if (!word || seconds >= word.end || text !== this.script) return null;
    return { begin: this.places[word.start_char], end: this.places[word.end_char] };
  }
}
