"""The arguments of `dia-hf evaluate`."""

from __future__ import annotations

import argparse

from .options import add_device, add_dtype, add_model, add_result, add_sampling, add_voice, count, positive, seed

__all__ = ["add_parser"]


def add_parser(verbs: argparse._SubParsersAction) -> None:
    """Add `dia-hf evaluate`."""
    evaluate = verbs.add_parser(
        "evaluate",
        help="measure how well a model speaks",
        description="Let a model say sentences, and judge them: by a speech recognizer, and on request by a speaker "
        "model and DNSMOS; with references also the recordings, and what the codec leaves of them (dia-hf[evaluate]; "
        "judges: dia-hf[judges]).",
    )
    add_model(evaluate)
    evaluate.add_argument(
        "--sentences",
        metavar="F",
        help=".txt, a text a line; .jsonl, .csv or .tsv with text and perhaps audio (.jsonl: codes) and prompts; .lst "
        "of Seed-TTS-eval or TTSD-eval; or a folder of `dia-hf prepare`",
    )
    evaluate.add_argument(
        "--asr",
        metavar="MODEL",
        help="pocketsphinx, which knows the words of the sentences alone; whisper-tiny.en, offline, too; or a model "
        "such as openai/whisper-small",
    )
    evaluate.add_argument(
        "--vocabulary",
        metavar="F",
        help="what pocketsphinx knows: a word a line, perhaps with its pronunciation (dia D IY AH), # for comments; "
        "default: the words of the sentences",
    )
    evaluate.add_argument(
        "--normalizer",
        choices=["english", "words"],
        help="how words are compared: english as Whisper's, words without capitals and punctuation; default: english, "
        "with pocketsphinx words",
    )
    evaluate.add_argument(
        "--speaker-model",
        metavar="MODEL",
        help="resemblyzer, offline, or a model such as microsoft/wavlm-base-plus-sv: who says each turn, and how alike "
        "the voices are",
    )
    evaluate.add_argument("--quality", choices=["dnsmos"], help="estimate the quality: DNSMOS, offline")
    evaluate.add_argument(
        "--audio",
        metavar="DIR",
        help="judge the audio there, of any system, instead of generating: a file for each sentence, named by its id "
        "or number, such as 0000.wav",
    )
    add_voice(evaluate)
    evaluate.add_argument("--output", "-o", metavar="F", help="write all results there, as JSON")
    evaluate.add_argument(
        "--report",
        metavar="F",
        help="write an HTML file with all metrics, and the worst sentences to hear: ends in .html",
    )
    evaluate.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="compare two files of --output for the same sentences instead of evaluating",
    )
    evaluate.add_argument("--keep", metavar="DIR", help="keep the generated speech there, as WAV")
    evaluate.add_argument("--batch-size", type=count, default=8, metavar="N", help="sentences in a batch (8)")
    evaluate.add_argument("--max-seconds", type=positive, metavar="S", help="limit of a sentence")
    evaluate.add_argument(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="random seed of the first sentence (0); that of sentence i is N + i",
    )
    add_device(evaluate)
    add_dtype(evaluate)
    add_sampling(evaluate)
    add_result(evaluate, "path, seconds, seed, speed, word_error_rate, measures")
