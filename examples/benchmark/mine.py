"""How questions.json is read and scored."""

from earwitness.datamodules.benchmarks.benchmark import Benchmark


def layout(record):
    """A record of questions.json in the fields that every question has here."""
    return {
        "source_dataset": "sounds of ours",
        "id": str(record["nr"]),
        "question": record["ask"],
        "choices": list(record["options"].values()),
        "answer": record["options"][record["right"]],
        "audio_path": record["clip"],
        "question_type": record["about"],
        "split": "test",
    }


def same_words(said, answer, choices):
    """The scorer: the right option's words, whatever their case and spaces; True, False, or None to leave one out."""
    return said.lower().split() == answer.lower().split()


def last_word(completion, answer, choices):
    """Another rule for the same answers: the last word is the right option. None: no answer can be found."""
    words = completion.replace("<", " <").split()
    words = [word for word in words if not word.startswith("<")]
    return words[-1].strip(".").lower() == answer.lower() if words else None


SOUNDS = Benchmark(
    "sounds of ours",
    "mine.layout",
    same_words,
    rule="the words of the right option, in any case",
    facts=("the sounds are made, not recorded",),
    facets={"about": ("about",)},
)
