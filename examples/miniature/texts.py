"""Step 1: the texts. Natural sentences of packages, some of them held out, and texts that are made up from these.

The packages are downloaded, not installed: Debian's with `apt-get download`, so this runs on Debian, PyPI's with pip.

    python texts.py WORK   # writes WORK/texts.txt, WORK/held-out.jsonl and WORK/book.txt; keeps the packages

    texts = Texts(Path("WORK"))
    texts.draw(random.Random(0))
"""

from __future__ import annotations

import argparse
import collections
import functools
import html
import itertools
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import wordfreq
from tqdm import tqdm

from dia_hf.speech.script import NON_VERBAL_TAGS

SEED = 0
# Kinds of texts to train on, each with its weight; then ways to write them.
KINDS = {"sentence": 45, "chain": 20, "list": 20, "template": 15}
SHARE_OF_FRAGMENTS = 0.25  # of the texts begin or end inside of a sentence, as chunks of a long text may
SHARE_OF_ECHOES = 0.06  # say some of their words twice
SHARE_OF_TAGS = 0.04  # of the texts have a tag somewhere, such as "(laughs)", which is not spoken
CASINGS = {"as it is": 85, "lower": 10, "upper": 2, "no mark": 3}
MAX_WORDS = 25
MAX_ECHO = 4  # words
MAX_LIST = 12  # words of a list
NUM_WORDS = 40_000  # most frequent ones, of which lists are made
LIST_EXPONENT = 0.3  # a list's word of rank r is as likely as r ** -this
JUMP = 0.4  # how likely a chain goes on from another place where its last word occurs
SHARE_OF_PHRASES = 0.25  # of templates
MAX_UNKNOWN = 0.2  # of a sentence's words
HELD_OUT = {"short": (165, 1, 5), "middle": (170, 6, 15), "long": (165, 16, 25)}  # from how many words to how many
NUM_RARE, RARE_RANKS = 100, (20_000, 25_000)
SHARED = 0.5  # of a held-out sentence's 4-grams: a sentence with that many of them is not trained on
BOOK = "golang-github-klauspost-compress-dev", "compress/testdata/Mark.Twain-Tom.Sawyer.txt"
BOOK_START, BOOK_WORDS = "By and by attention ceased from him", 530

ABBREVIATED = re.compile(
    r"\b(?:Mrs?|Ms|Dr|St|Prof|Rev|Gen|Col|Capt|Lt|Jr|Sr|vs|etc|cf|ca|esp|Fig|Vol|[A-Z]|e\.g|i\.e)\.$"
)
END = re.compile(r"""([.!?]["')]*)\s+(?=["'(]*[A-Z0-9])""")
SPACES = re.compile(r"\s+")
WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
ALLOWED = re.compile(r"""["'(]?[A-Z0-9][A-Za-z0-9 ,.;:?!'"()&%$-]*[.?!]["')]*""")
# Code, lists, file names, cross references, initials, stray marks and such.
ODD = re.compile(
    r"\.\.|[A-Za-z]\.[A-Za-z]{2}|[?!.,;:]{3}|\d[A-Za-z]{3}|[a-z]\d|[a-z][A-Z]|[A-Z]{6}|--|\$\D|\d{6}| [.,;:?!)]|\( "
    r"|\w\(|\b(?:n|v|adj|q\.v|cf|pp?)\.|(?:^|\s)['&%-]|[-'](?:\s|$)|\b(\w+) \1 \1\b|^[A-Za-z]\.|^\d+\.|^\(\w\)|^[QA]:"
    r"|[A-Z]\. [A-Z]\. [A-Z]\.|\b(?:See|Compare) (?:also|under|the note|[A-Z])"
    r"|^(?:See|Same as) \w+\.$|\bSyn\b|\bFigure \d|\b[A-Z]\.\d"
)
RUDE = re.compile(
    r"\b(?:f+u+c+k\w*|porn\w*|sexual\w*|masturbat\w*|prostitut\w*|(?:shit|cunt|n[ie]gg?(?:er|ro)|fag|whore|slut|bitch"
    r"|rape|rapist|penis|vagina|clit|boob|tit|orgasm|dick|piss|bastard|sex|anal|anus|ass|asshole|erotic|genital|brothel"
    r"|damn)(?:e?s|e?d|ing)?)\b",
    re.IGNORECASE,
)
PLAIN = str.maketrans(dict(zip("‘’“”´`−\xa0", "''\"\"''- ", strict=True)) | {"–": " - ", "—": " - ", "…": "..."})
UNQUOTED = str.maketrans("", "", '"()')
STATEMENT = "I You He She We They It There Let's Please Don't Nobody Everyone Most Some If After When That"
QUESTION = "What Who How Where Why When Which Can Could Do Did Does Is Are Was Were Will Would Have Has May Should"
# A whole sentence, by its first word; and words that make a sentence unfit for evaluation.
WHOLE = re.compile(
    rf"(?:{STATEMENT.replace(' ', '|')})(?:'\w+)? [a-z].*[.!]|(?:{QUESTION.replace(' ', '|')})(?:'\w+)? [a-z].*\?"
)
UNFIT = re.compile(
    r"\b(?:thou|thee|thy|ye|hath|doth|upon|shall|whom|nor|lest|unto|slaves?|colored|murder\w*|kill\w*|die|dead|death|idiot"
    r"|stupid|seduce\w*|blood\w*|devil|hell|ugly|fat|racial|midget|dung|nuclear|crap|suicide|gonna)\b",
    re.IGNORECASE,
)


# --- where sentences come from: paragraphs of each source


def read(file: Path) -> str:
    """Return a text, which may be packed with gzip."""
    data = file.read_bytes()
    return (zlib.decompress(data, wbits=31) if data[:2] == b"\x1f\x8b" else data).decode("utf-8", "replace")


def read_dictionary(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of a dictionary's articles, without headwords, marks and attributions."""
    for file in folder.rglob("*.dict.dz"):
        for block in re.split(r"\n\s*\n", read(file)):
            if block.startswith(" ") and "\\" not in block:
                block = re.sub(r"\s--\s?[A-Z].*$|\[[^\]]*\]|^\s*(?:\d+\.|\(\w\))", "", block, flags=re.DOTALL)
                yield re.sub(r"^\s*<[^>]*>|\([A-Z][\w. &]*\.\)|[{}]", "", block)


def read_wordnet(folder: Path, examples: bool) -> Iterator[str]:
    """Yield WordNet's usage examples, or its definitions, written as sentences."""
    for file in sorted(folder.rglob("data.*")):
        for line in file.read_text("utf-8").splitlines():
            gloss = line.partition(" | ")[2]
            defined = re.sub(r"^\([^)]*\)\s*", "", re.split(r'[;"]', gloss)[0].strip())
            for text in re.findall(r'"([^"]+)"(?!\s*-)', gloss) if examples else [defined]:
                text = text.strip().rstrip(";,")
                if text:
                    yield text[0].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def read_fortunes(folder: Path) -> Iterator[str]:
    """Yield fortune cookies' paragraphs without attributions."""
    unfit = {"ascii-art", "ethnic", "men-women", "drugs", "perl", "translate-me", "knghtbrd", "songs-poems", "debian"}
    for file in sorted(folder.rglob("fortunes/*")):
        if not file.suffix and file.name not in unfit:
            for cookie in re.split(r"^%$", read(file), flags=re.MULTILINE):
                yield from re.split(r"\n\s*\n|\n(?=\t)", re.sub(r"\n\s*--.*", "", cookie, flags=re.DOTALL))


def read_html(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of HTML pages in English."""
    language = re.compile(r"[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?")
    for file in sorted([*folder.rglob("*.html"), *folder.rglob("*.html.gz")]):
        if all(name.startswith("en") or not language.fullmatch(name) for name in file.parts[-3:-1]):
            text = re.sub(r"<(pre|script|style|head|table)\b.*?</\1>", "", read(file), flags=re.DOTALL)
            for part in re.split(r"</?(?:p|div|li|dd|dt|h\d|td|br|blockquote|ul|ol)\b[^>]*>", text):
                yield html.unescape(re.sub(r"<[^>]*>", "", part))


def read_r_strings(folder: Path) -> Iterator[list[str]]:
    """Yield the strings of each object in an R package's data: chunks that are compressed with zlib."""
    for file in folder.rglob("data/Rdata.rdb"):
        data = file.read_bytes()
        while data:
            chunk = zlib.decompressobj()
            raw = chunk.decompress(data[4:])
            data = chunk.unused_data
            starts = re.finditer(rb"\0[\0\1\2\4\10]\0\t(....)", raw, re.DOTALL)
            spans = ((found.end(), int.from_bytes(found[1], "big")) for found in starts)
            yield [raw[start : start + length].decode("utf-8", "replace") for start, length in spans]


def read_novels(folder: Path) -> Iterator[str]:
    """Yield the paragraphs of Jane Austen's novels."""
    for lines in read_r_strings(folder):
        yield from "\n".join(lines).replace("_", "").split("\n\n")


def read_harvard(folder: Path) -> Iterator[str]:
    """Yield the Harvard sentences, which stringr has as an example."""
    yield from (text for texts in read_r_strings(folder) if len(texts) == 720 for text in texts)


def read_chats(folder: Path) -> Iterator[str]:
    """Yield what is said in ChatterBot's English conversations."""
    for file in sorted(folder.rglob("english/*.yml")):
        text = re.sub(r"\n {4,}", " ", read(file)) if file.stem not in {"coding", "botprofile"} else ""
        yield from (
            found.strip("'\"").replace("''", "'") for found in re.findall(r"^(?:- )? *- (.+)", text, re.MULTILINE)
        )


def read_bots(folder: Path) -> Iterator[str]:
    """Yield the answers of the ALICE bot."""
    for file in sorted(folder.rglob("*.aiml")):
        text = re.sub(r"<think>.*?</think>", "", read(file), flags=re.DOTALL)
        yield from map(html.unescape, re.findall(r"<(?:template|li)>([^<]{3,})</", text))


MANUALS = ["gimp-help-en", "installation-guide-amd64", "developers-reference", "debian-faq", "debian-reference-en"]
# How to read each source, its packages, and how many sentences are taken at most.
SOURCES: dict[str, tuple[Callable[[Path], Iterable[str]], list[str], int]] = {
    "examples": (functools.partial(read_wordnet, examples=True), ["wordnet-base"], 60_000),
    "definitions": (functools.partial(read_wordnet, examples=False), ["wordnet-base"], 40_000),
    "gcide": (read_dictionary, ["dict-gcide"], 40_000),
    "computing": (read_dictionary, ["dict-foldoc", "dict-jargon"], 25_000),
    "fortunes": (read_fortunes, ["fortunes", "fortunes-min"], 30_000),
    "manuals": (read_html, MANUALS, 25_000),
    "essays": (read_html, ["anarchism"], 25_000),
    "novels": (read_novels, ["r-cran-janeaustenr"], 25_000),
    "harvard": (read_harvard, ["r-cran-stringr"], 1_000),
    "chats": (read_chats, ["pip:chatterbot-corpus==1.3.3"], 10_000),
    "bots": (read_bots, ["pip:python-aiml==0.9.3"], 20_000),
}


def get_package(package: str, folder: Path) -> Path:
    """Download and unpack a package unless that is done, and return where it is."""
    target = folder / re.sub(r"\W+", "-", package)
    if not target.exists():
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        if package.startswith("pip:"):
            pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package.removeprefix("pip:")]
            subprocess.run(pip, cwd=part, check=True)
            with zipfile.ZipFile(next(part.iterdir())) as file:
                file.extractall(part)
        else:
            subprocess.run(
                ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package], cwd=part, check=True
            )
            subprocess.run(["dpkg-deb", "-x", next(part.glob("*.deb")), part], check=True)
        part.rename(target)
    return target


# --- from paragraphs to sentences


def normalize(text: str) -> str:
    """Return a text's words in lower case, letters and digits only, by which texts are compared."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower().replace("'", "")))


def split_texts(block: str) -> list[str]:
    """Return the texts of a block."""
    return [text.strip() for text in block.replace("\n", "|").split("|") if text.strip()]


def split_sentences(paragraph: str) -> Iterator[str]:
    """Yield a paragraph's sentences in plain ASCII, without quotes that are not closed."""
    text = re.sub(r"\s*--+\s*", " - ", paragraph.translate(PLAIN)).replace(". . .", "...")
    text, start = SPACES.sub(" ", text).strip(), 0
    for end in [*(found.end(1) for found in END.finditer(text)), len(text)]:
        sentence = text[start:end].strip()
        if end == len(text) or not ABBREVIATED.search(sentence):
            yield sentence.replace('"', "") if sentence.count('"') % 2 else sentence
            start = end


@functools.cache
def is_known(word: str) -> bool:
    """Say whether wordfreq knows a word, or what it is the genitive of."""
    return wordfreq.zipf_frequency(word.removesuffix("'s"), "en") > 0


def is_natural(text: str) -> bool:
    """Say whether a text is an ordinary English sentence of the right length."""
    words = WORD.findall(text)
    return (
        0 < len(text.split()) <= MAX_WORDS
        and len(text) <= 180
        and len(words) > 0
        and ALLOWED.fullmatch(text) is not None
        and not (ODD.search(text) or RUDE.search(text))
        and text.count("(") == text.count(")")
        and len(max(words, key=len)) <= 20
        and sum(map(str.isdigit, text)) <= 8
        and sum(word[0].isupper() for word in words[1:]) <= max(1, len(words) // 3)
        and sum(is_known(word.lower()) for word in words) >= (1 - MAX_UNKNOWN) * len(words)
    )


def collect_sentences(folder: Path) -> dict[str, list[str]]:
    """Return each source's sentences, each of them once."""
    seen: set[str] = set()
    taken: dict[str, list[str]] = {}
    for name, (read_source, packages, most) in tqdm(SOURCES.items(), "sources"):
        sentences = {}
        for paragraph in itertools.chain.from_iterable(read_source(get_package(one, folder)) for one in packages):
            for sentence in split_sentences(paragraph):
                if is_natural(sentence) and (key := normalize(sentence)) not in seen:
                    seen.add(key)
                    sentences[key] = sentence
        taken[name] = random.Random(f"{name} {SEED}").sample(list(sentences.values()), min(most, len(sentences)))
        tqdm.write(f"{name}: {len(taken[name])} of {len(sentences)} sentences")
    return taken


# --- what is held out

# Written for this, as the packages have few everyday sentences with questions or numbers.
OWN = """
Hello, can you hear me? | Hi there! | Good to see you again. | Where is my phone? | I don't think so. | Not right now.
That's a great idea! | See you next week. | Are you hungry? | Two coffees, please. | It's raining outside. | Watch out!
Who left the door open? | She lives next door. | Dinner is ready. | My battery is low. | Turn off the lights. | So what?
We're almost there. | Is this seat taken? | Sorry, I'm late. | What a lovely garden! | Open your books. | Not again!
Let's take a break. | I'd love to. | How much is it? | Nobody told me. | Mind your head. | Is lunch at 1:30? | No way!
I need 12 eggs. | It costs $25. | Only 40% agreed. | Chapter 7 is short. | Are you over 18? | Call me at 9:15.
Any news? | Anything else? | Thanks for your help. | Is it far? | The soup smells good. | Which one is yours?
I feel better today. | Have you eaten? | Today is Monday. | We won the game! | Keep it simple. | Who ate my sandwich?
Nice work, everybody. | My daughter started school this year, and she already reads better than I do.
Could you tell me how to get to the nearest train station? | The meeting was moved to Thursday at 3:30.
I left my keys in the car and had to walk home. | Do you want soup or salad with that? | She was born on June 14, 1992.
The new phone costs $349, which is more than I can afford. | Have you ever been to a country where it never snows?
About 60% of the students passed the exam. | The bridge was closed in 2008 and opened again 3 years later.
Please remember to water the plants while we are away. | The recipe calls for 250 grams of flour and 2 eggs.
He ran the race in 48 minutes, his best time so far. | Why don't we meet in front of the library at noon?
The temperature will drop to minus 5 degrees tonight. | I have been waiting here for 45 minutes, and nobody has come.
Our neighbors are building a tree house for their children. | Can you lend me 20 dollars until Friday?
There are 365 days in a year, and this was the best of them. | The shop around the corner sells the best bread in town.
Did anyone see where I put my glasses? | Both of my sisters learned to swim before they could read.
If it is still raining when you finish work, call me and I will pick you up at the station.
We were going to paint the kitchen yellow, but in the end we decided that plain white looked much better.
Would you mind turning the music down a little, because my little brother is trying to sleep in the next room?
The doctor told him to drink more water, eat less salt, and go for a walk of at least 30 minutes every day.
When I was a child, my grandmother used to bake bread every Saturday, and the whole house smelled wonderful.
She has worked at the same hospital for 17 years, and she still looks forward to every single morning.
Although the museum was crowded, we managed to see most of the paintings before it closed at 6:00 in the evening.
Do you know whether the last bus leaves before midnight, or should we ask somebody to drive us home after the concert?
The company sold more than 1,200 bicycles last year, and it hopes to sell twice as many in the coming summer.
I would like to thank everyone who helped us move the furniture, especially those who carried the piano up the stairs.
The children spent the whole afternoon looking for shells on the beach, but all they brought home was sand.
Nobody could explain why the lights in the old house went on every night at exactly the same time.
After a long flight and a short taxi ride, we finally reached our hotel and fell asleep without unpacking.
What would you do if you found a wallet with $500 in the street and there was no name in it?
The train to the airport runs every 20 minutes, so we should leave home no later than half past seven.
"""
# Around rare words of which WordNet has no plain example.
AROUND = split_texts("""
How do you spell {}? | My favorite word is {}. | The next word on the list is {}. | Did you say {} or something else?
Nobody knew what {} meant. | The teacher wrote {} on the board. | The answer to the last question was {}, I think.
""")


def is_everyday(text: str, least: float) -> bool:
    """Say whether a sentence is whole and modern, with frequent words only, no names, and no marks but the usual."""
    words = WORD.findall(text)
    return (
        re.fullmatch(r"[A-Z][A-Za-z0-9 ,.'$%:]*[.?!]", text) is not None
        and not UNFIT.search(text)
        and all(word == "I" or word.startswith("I'") or word.islower() for word in words[1:])
        and all(wordfreq.zipf_frequency(word, "en") >= least for word in words)
    )


def hold_out(found: dict[str, list[str]], taken: set[str], draw: random.Random) -> list[tuple[str, str]]:
    """Return the sentences to evaluate with, each with its group: our own first, then Harvard's and others."""
    own, chats = split_texts(OWN), [text for text in found["chats"] if text.endswith("?")]
    others = [text for text in found["examples"] + found["fortunes"] + chats if WHOLE.fullmatch(text)]
    pool = draw.sample(found["harvard"], 80) + draw.sample(others, len(others))
    pool = own + [text for text in pool if text not in taken and is_everyday(text, 3.2)]
    chosen: list[tuple[str, str]] = []
    for group, (count, least, most) in HELD_OUT.items():
        chosen += [(text, group) for text in pool if least <= len(text.split()) <= most][:count]
    return chosen


def hold_out_rare(found: dict[str, list[str]], folder: Path, draw: random.Random) -> list[tuple[str, str]]:
    """Return sentences with a rare word each: WordNet's where it has a plain one, otherwise made around the word."""
    lines = itertools.chain(*(read(file).splitlines() for file in get_package("wordnet-base", folder).rglob("data.*")))
    fields = (line.split(" ") for line in lines if not line.startswith(" "))
    lemmas = {word for field in fields for word in field[4 : 4 + 2 * int(field[3], 16) : 2]}
    ranked = [word for word in wordfreq.top_n_list("en", RARE_RANKS[1] + 5000) if word.isascii() and word.isalpha()]
    rare = {word for word in ranked[slice(*RARE_RANKS)] if len(word) > 3 and word in lemmas}
    rare = {word for word in rare if word.capitalize() not in lemmas and not (RUDE.search(word) or UNFIT.search(word))}
    chosen: dict[str, str] = {}
    for text in found["examples"]:
        inside = [word for word in WORD.findall(text) if word in rare]
        fits = len(inside) == 1 and 5 <= len(text.split()) <= 15 and WHOLE.fullmatch(text)
        if fits and is_everyday(text.replace(inside[0], "the"), 3.2):
            chosen.setdefault(inside[0], text)
    chosen = dict(draw.sample(sorted(chosen.items()), min(NUM_RARE * 3 // 4, len(chosen))))
    for word in draw.sample(sorted(rare - set(chosen)), NUM_RARE - len(chosen)):
        chosen[word] = draw.choice(AROUND).format(word)
    return [(text, "rare") for text in chosen.values()]


def shingle(text: str) -> set[tuple[str, ...]]:
    """Return a text's 4-grams of words."""
    words = normalize(text).split()
    return set(zip(*(words[start:] for start in range(4)), strict=False))


def drop_similar(sentences: Iterable[str], held_out: list[str]) -> Iterator[str]:
    """Yield the sentences that neither are held out nor share many 4-grams with one that is."""
    keys, owners = set(map(normalize, held_out)), collections.defaultdict(list)
    sizes = [len(shingle(text)) for text in held_out]
    for number, text in enumerate(held_out):
        for gram in shingle(text):
            owners[gram].append(number)
    for text in sentences:
        shared = collections.Counter(number for gram in shingle(text) for number in owners.get(gram, ()))
        if normalize(text) not in keys and all(count < SHARED * sizes[number] for number, count in shared.items()):
            yield text


def read_book(folder: Path) -> list[str]:
    """Return the paragraphs of a passage of Tom Sawyer, without emphasis."""
    text = read(next(get_package(BOOK[0], folder).rglob(BOOK[1]))).replace("\r", "")
    paragraphs, left = [], BOOK_WORDS
    for paragraph in re.split(r"\n\s*\n", text[text.index(BOOK_START) :]):
        if left > 0:
            paragraph = re.sub(r"\b[A-Z]{2,}", lambda found: found[0].lower(), paragraph)
            paragraphs.append(SPACES.sub(" ", paragraph.translate(PLAIN).replace("--", " - ")).strip())
            left -= len(paragraph.split())
    return paragraphs


def write_texts(work: Path) -> None:
    """Write what there is to train on, to evaluate with, and to read aloud."""
    folder, draw = work / "debian", random.Random(SEED)
    found, book = collect_sentences(folder), read_book(folder)
    held_out = hold_out_rare(found, folder, draw)
    held_out = hold_out(found, {text for text, _ in held_out}, draw) + held_out
    unseen = [text for text, _ in held_out] + [text for part in book for text in split_sentences(part)]
    sentences = list(drop_similar(itertools.chain(*found.values()), unseen))
    draw.shuffle(sentences)
    rows = [json.dumps({"text": text, "group": group}) for text, group in held_out]
    for name, lines in {"texts.txt": sentences, "held-out.jsonl": rows, "book.txt": book}.items():
        (work / name).write_text("\n".join(lines) + "\n", "ascii")
    words = collections.Counter(word.lower() for text in sentences for word in WORD.findall(text))
    common = sum(word in words for word in wordfreq.top_n_list("en", 20_000))
    groups = dict(collections.Counter(group for _, group in held_out))
    print(
        f"{len(sentences)} sentences of {words.total()} words, of which {len(words)} differ: {common} of 20,000 common"
    )
    print(f"held out: {groups}; the book: {sum(len(part.split()) for part in book)} words")


# --- texts to train on

PHRASES = """
Hello, how are you? | I'm fine, thank you. | Thank you very much. | What time is it? | Good morning! | Good afternoon.
Good evening, everyone. | Good night, sleep well. | See you tomorrow. | See you later! | Goodbye. | Bye for now. | Yes.
No. | Yes, please. | No, thank you. | Maybe. | Of course. | Sure. | You're welcome. | I'm sorry. | Excuse me. | Oh, no!
Don't worry. | No problem. | How is it going? | What's your name? | My name is {first}. | Nice to meet you, {first}.
How old are you? | Where are you from? | I come from {place}. | Do you speak English? | I don't understand. | Okay.
Could you repeat that, please? | What does that mean? | How do you say that in English? | Please speak more slowly.
I'm lost. | Can you help me? | Where is the bathroom? | How much does this cost? | That's too expensive. | Just kidding!
I would like a cup of tea. | The bill, please. | Have a nice day! | Have a good trip. | Happy birthday! | Well done!
Congratulations! | Merry Christmas! | Happy New Year! | Good luck! | Get well soon. | Take care of yourself. | I'm busy.
I love you. | I miss you. | I'm hungry. | I'm thirsty. | I'm tired. | What's the matter? | What happened? | Who is it?
Who are you? | Where do you live? | What do you do? | I'm a teacher. | How was your day? | It was great. | Not bad.
What's the weather like today? | It's cold. | It's very hot in here. | Look at that! | Listen to me. | Be careful!
Hurry up! | Wait a minute. | Just a moment, please. | Come in. | Sit down. | Stand up, please. | Come here. | Go away!
Stop it! | Help! | Let me see. | Let's go. | I don't know. | I know. | I see. | I agree. | I don't agree with you.
Hey! | You're right. | That's wrong. | That's true. | Are you sure? | I think so. | I hope so. | Really? | Is that so?
Never mind. | It doesn't matter. | It's up to you. | That depends. | As soon as possible. | Not yet. | I forgot.
I can't remember. | Do you remember me? | What are you doing? | Where are you going? | I'm going home. | Tell me. | Why?
When does it start? | Why not? | Because I said so. | How come? | What do you think? | What do you mean? | Welcome!
Welcome home. | Make yourself at home. | Help yourself. | Cheers! | Bless you! | Oh, my goodness! | Wow! | Who knows?
Once upon a time, there was a king. | The quick brown fox jumps over the lazy dog. | Testing, one, two, three.
This is a test. | This is {first} speaking. | Please leave a message after the tone. | Your call is important to us.
Please hold the line. | I'll call you back. | Send me an email. | Click here. | Press any key to continue. | Try again.
Ladies and gentlemen, welcome to {place}. | Mind the gap. | Keep the change. | Long time no see. | So far, so good.
Better late than never. | Practice makes perfect. | Time flies. | It's a small world. | Easy come, easy go. | Me, too.
I can't believe it! | What a surprise! | How nice! | That's funny. | Don't be silly. | Leave me alone. | I was wrong.
"""
TEMPLATES = """
I have {int} {noun} and {int} {noun}. | There were {int} {noun} in {place}. | {first} is {small} years old. | {int}.
The answer is {int}. | {int} plus {int} is {int}. | {small} times {small} is {int}. | Is {decimal} more than {decimal}?
It took {decimal} seconds. | Version {decimal} came out in {year}. | About {fraction} of the {noun} were late. | {year}.
Only {fraction} of {place} agreed. | This was the {ordinal} time. | She came in {ordinal}. | The {ordinal} of {month}.
He lives on the {ordinal} floor, room {room}. | In {year}, {name} moved to {place}. | {name} was born in {year}.
It began on {date}. | On {date}, {name} arrived in {place}. | See you on {weekday}, {date}. | {date}. | {time}.
It was {weekday}, {date}. | {name}, {year} to {year}. | The meeting is at {time}. | It is {time}. | {weekday} at {time}?
We leave at {time} {half}. | The train from {place} to {place} leaves at {time}. | It costs {money}. | {phone}
{first} paid {money} for {small} {noun}. | They made {money} in {year}. | Prices rose by {percent}.
{percent} of {percent} is not much. | A discount of {percent}! | Call {phone}. | My number is {phone}.
Dial {phone} or ask for {first}. | {king} died in {year}. | Was {king} from {place}? | Chapter {chapter}.
Queen Elizabeth II met Pope John Paul II in {year}. | World War I ended in 1918. | World War II ended in 1945.
{title} {last} is here. | Good morning, {title} {last}. | Is {title} {last} from {place}? | Yes, {title} {last}.
Ask {title} {last}, {title} {last} or {first}. | {name} lives on {last} St. in {place}.
They saw St. {first} in {place}. | The {short} was founded in {year}. | {first} works for the {short}.
He left the {short} for the {short}. | Some {noun}, e.g. {noun}, are rare.
The {noun}, i.e. the {noun}, came from {place}. | They sell {noun}, {noun}, etc. | {first} and {first} went to {place}.
Where is {first}? | {first}! | {name}. | {place}. | {first}, {first} and {first}. | Have you been to {place}, {first}?
{place} is far from {place}. | Welcome to {place}! | {first} likes {place} in {month}. | Dear {first}, I am in {place}.
My friend {first} comes from {place}. | {first} said that {last} was in {place}. | It is {small} degrees in {place}.
It weighs {decimal} kilograms. | The road is {decimal} miles long. | The U.S. won {small} to {small}.
{small}, {small}, {small}, {small}. | Add {fraction} of a cup. | Turn to page {room}.
From {year} to {year} it grew by {percent}. | Flight {room} to {place}. | It happened in the {decade}.
"""
# What fills the templates' slots: lists, and what is made by functions.
LISTS = """
first: Alice Amy Andrew Anna Anthony Arthur Barbara Ben Betty Bill Bob Brian Carol Catherine Charles Charlotte Chris
Daniel David Diana Donald Dorothy Edward Elizabeth Emily Emma Eric Eva Frank Fred George Grace Hannah Harry Helen Henry
Isabel Jack Jacob James Jane Jason Jennifer Jessica Jim John Joseph Julia Karen Kate Kevin Laura Lily Linda Lisa Louis
Lucy Mark Margaret Maria Martin Mary Matthew Michael Mike Nancy Nicholas Nick Oliver Olivia Patrick Paul Peter Philip
Rachel Rebecca Richard Robert Roger Rose Ruth Sally Sam Sarah Simon Sophia Stephen Steve Susan Thomas Tim Tom Tony
Victoria Vincent Walter William Zoe
last: Adams Allen Anderson Baker Bell Brown Campbell Carter Clark Collins Cook Cooper Davis Edwards Evans Fisher Garcia
Gray Green Hall Harris Hill Hughes Jackson Johnson Jones Kelly King Lee Lewis Lopez Martinez Miller Mitchell Moore
Morgan Morris Murphy Nelson Parker Phillips Roberts Robinson Rogers Russell Scott Smith Stewart Taylor Thompson Turner
Walker Ward Watson White Williams Wilson Wood Wright Young
place: Africa Alaska America Amsterdam Argentina Arizona Asia Athens Atlanta Australia Austria Baltimore Bangkok
Barcelona Beijing Belgium Berlin Birmingham Boston Brazil Britain Brussels Cairo California Cambridge Canada Chicago
Chile China Colombia Colorado Copenhagen Cuba Dallas Delhi Denmark Denver Detroit Dublin Edinburgh Egypt England
Ethiopia Europe Finland Florida France Geneva Georgia Germany Glasgow Greece Hawaii Hong_Kong Houston Hungary Iceland
India Indonesia Iran Iraq Ireland Israel Istanbul Italy Jamaica Japan Jerusalem Kansas Kenya Korea Lisbon Liverpool
London Los_Angeles Madrid Manchester Mexico Miami Michigan Milan Minnesota Montreal Moscow Munich Nepal New_Jersey
New_York New_Zealand Nigeria Norway Ohio Ontario Oregon Oxford Pakistan Paris Peru Philadelphia Poland Portugal Prague
Rome Russia San_Francisco Scotland Seattle Shanghai Singapore South_Africa Spain Stockholm Sweden Switzerland Sydney
Texas Thailand Tokyo Toronto Turkey Ukraine Vancouver Venice Vienna Vietnam Virginia Wales Warsaw Washington
noun: apples books boats boxes birds cars cats chairs children clouds coins cups days dogs doors eggs farms fish flowers
friends games hours houses islands keys letters lights men miles minutes months people pictures plants questions roads
rooms ships shoes songs stars stones stories students tables teachers tickets trees weeks windows women words years
month: January February March April May June July August September October November December
weekday: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
fraction: a_half a_third two_thirds a_quarter three_quarters a_fifth two_fifths five_sixths an_eighth a_tenth 1/2 1/4
king: King_Henry_VIII King_Henry_IV King_Louis_XIV King_Louis_XVI King_Charles_I King_Charles_III King_George_III
King_George_VI King_Edward_VII Queen_Elizabeth_I Queen_Elizabeth_II Pope_Pius_XII Pope_John_XXIII Napoleon_III
chapter: I II III IV V VI VII VIII IX X XI XII XIV XX
title: Dr. Mr. Mrs. Miss Professor President Captain Aunt Uncle Judge
short: BBC FBI CIA NATO UN EU U.S. UK NASA CNN USA FDA NBA UNESCO
half: a.m. p.m. in_the_morning at_night
decade: 1820s 1890s 1920s 1950s 1960s 1970s 1980s 1990s 2010s
"""


def write_ordinal(number: int) -> str:
    """Write 1st, 2nd, …"""
    return f"{number}{'th' if 10 < number % 100 < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def write_integer(draw: random.Random) -> str:
    """Draw an integer of any size, and write it with commas, which flite needs from 10,000 on."""
    number = int(10 ** draw.uniform(0, draw.choice([2, 4, 7])))
    return f"{number:,}" if number >= 10_000 or draw.random() < 0.5 else str(number)


def write_date(draw: random.Random) -> str:
    """Draw a date, and write it in one of several ways."""
    day, month, year = draw.randint(1, 31), draw.choice(SLOTS["month"]), draw.randint(1700, 2030)
    ways = [f"{month} {day}, {year}", f"{month} {write_ordinal(day)}", f"{day} {month} {year}", f"{month} {day}"]
    return draw.choice([*ways, f"the {write_ordinal(day)} of {month}", f"{month} {year}"])


def write_money(draw: random.Random) -> str:
    """Draw an amount of dollars or cents."""
    cents, dollars = draw.randint(2, 99), int(10 ** draw.uniform(0, 5))
    return draw.choice([f"${dollars:,}", f"${dollars:,}.{cents:02d}", f"${cents} million", f"{cents} cents"])


def write_phone(draw: random.Random) -> str:
    """Draw groups of digits."""
    return "-".join("".join(draw.choices("0123456789", k=size)) for size in draw.choice([[3, 4], [3, 3, 4], [3, 3]]))


_PARTS = re.findall(r"^(\w+):([^:]+)$", LISTS, re.MULTILINE)
SLOTS = {name: [item.replace("_", " ") for item in items.split()] for name, items in _PARTS}
MADE: dict[str, Callable[[random.Random], str]] = {
    "int": write_integer,
    "small": lambda draw: str(draw.randint(2, 99)),
    "room": lambda draw: str(draw.randint(10, 999)),
    "decimal": lambda draw: f"{draw.choice([1, 10, 100]) * draw.random():.{draw.randint(1, 3)}f}",
    "ordinal": lambda draw: write_ordinal(draw.randint(1, draw.choice([12, 120]))),
    "year": lambda draw: str(draw.randint(draw.choice([1066, 1900]), 2030)),
    "date": write_date,
    "time": lambda draw: f"{draw.randint(1, 12)}:{draw.choice([0, 15, 30, 45, draw.randrange(60)]):02d}",
    "money": write_money,
    "percent": lambda draw: draw.choice([f"{draw.randint(1, 100)}%", f"{draw.random() * 10:.1f} percent"]),
    "phone": write_phone,
    "name": lambda draw: f"{draw.choice(SLOTS['first'])} {draw.choice(SLOTS['last'])}",
}


def pick(weights: dict[str, int], draw: random.Random) -> str:
    """Draw a key by its weight."""
    return draw.choices(list(weights), list(weights.values()))[0]


class Texts:
    """The texts to train on: natural sentences, and ones that are made up."""

    def __init__(self, work: Path) -> None:
        self.sentences = (work / "texts.txt").read_text("ascii").splitlines()
        rows = (work / "held-out.jsonl").read_text("ascii").splitlines()
        self.held_out = {normalize(json.loads(row)["text"]) for row in rows}
        fits = re.compile(r"[a-z]+(?:'[a-z]+)?").fullmatch
        listed = (word for word in wordfreq.top_n_list("en", 2 * NUM_WORDS) if fits(word) and not RUDE.search(word))
        self.words = list(itertools.islice(listed, NUM_WORDS))
        self.phrases, self.templates = split_texts(PHRASES), split_texts(TEMPLATES)
        # All sentences' words one after another, where sentences start and end, and where each word occurs.
        self._chain: list[str] = []
        self._starts, self._ends = array("I"), set[int]()
        self._places: dict[str, array[int]] = collections.defaultdict(lambda: array("I"))
        for sentence in self.sentences:
            self._starts.append(len(self._chain))
            for word in map(sys.intern, sentence.translate(UNQUOTED).split()):
                self._places[word].append(len(self._chain))
                self._chain.append(word)
            self._ends.add(len(self._chain) - 1)
        self._draws: dict[str, Callable[[random.Random], str]] = {
            "sentence": lambda draw: draw.choice(self.sentences),
            "chain": self._draw_chain,
            "list": self._draw_list,
            "template": self._draw_template,
        }

    def draw(self, draw: random.Random, kind: str | None = None) -> str:
        """Return a text that is not held out, of a kind that is drawn unless it is given."""
        text = self._draws[kind or pick(KINDS, draw)](draw)
        words = text.split()
        if len(words) > 1 and draw.random() < SHARE_OF_FRAGMENTS:
            place = draw.randint(1, len(words) - 1)
            words = draw.choice([words[:place], words[place:]])
        if draw.random() < SHARE_OF_ECHOES:
            first = draw.randrange(len(words))
            end = min(first + draw.randint(1, MAX_ECHO), len(words))
            again = draw.randint(end, len(words))
            words[again:again] = words[first:end]
        text = " ".join(words)
        if normalize(text) in self.held_out:
            return self.draw(draw, kind)
        casing = pick(CASINGS, draw)
        if casing == "no mark":
            text = text.rstrip(".?!")
        else:
            text = text.lower() if casing == "lower" else text.upper() if casing == "upper" else text
        if draw.random() < SHARE_OF_TAGS:
            place = draw.choice([gap.start() for gap in re.finditer(" |$", text)])
            text = f"{text[:place]} ({draw.choice(NON_VERBAL_TAGS)}){text[place:]}"
        return text

    def _draw_word(self, draw: random.Random) -> str:
        word = self.words[int(NUM_WORDS * draw.random() ** (1 / (1 - LIST_EXPONENT)))]
        return "I" + word[1:] if word == "i" or word.startswith("i'") else word

    def _draw_list(self, draw: random.Random) -> str:
        count = draw.randint(1, MAX_LIST)
        words = [self._draw_word(draw) + ("," if draw.random() < 0.15 else "") for _ in range(count)]
        text = " ".join(words).rstrip(",") + draw.choices(".?!", [6, 2, 1])[0]
        return text[0].upper() + text[1:] if draw.random() < 0.8 else text

    def _draw_chain(self, draw: random.Random) -> str:
        place = draw.choice(self._starts)
        words = [self._chain[place]]
        while place not in self._ends and len(words) < MAX_WORDS:
            elsewhere = draw.choice(self._places[words[-1]]) if draw.random() < JUMP else place
            place = (place if elsewhere in self._ends else elsewhere) + 1
            words.append(self._chain[place])
        text = " ".join(words).rstrip(" ,;:-")
        return text if text[-1] in ".?!" else text + "."

    def _draw_template(self, draw: random.Random) -> str:
        def fill(found: re.Match[str]) -> str:
            return MADE[found[1]](draw) if found[1] in MADE else draw.choice(SLOTS[found[1]])

        return re.sub(
            r"\{(\w+)\}", fill, draw.choice(self.phrases if draw.random() < SHARE_OF_PHRASES else self.templates)
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    write_texts(parser.parse_args().work)
