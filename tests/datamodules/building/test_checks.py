"""What the checks catch and what they let pass, one draft at a time; times and labels against what is known."""

from __future__ import annotations

import pytest

from earwitness.datamodules.building.balance import balanced
from earwitness.datamodules.building.canaries import KINDS, canaries
from earwitness.datamodules.building.checks import Repeats, fault_of, talks_of_captions
from earwitness.datamodules.building.draft import Draft, structured, told
from earwitness.datamodules.building.facts import times_in
from earwitness.datamodules.building.probe import asked_of, chosen
from earwitness.datamodules.building.reading import unique
from earwitness.datamodules.sources.item import Item

SCENE = ("A dog barks twice while rain falls on a tin roof.",)
EVENTS = [
    {"text": "a car passes", "onset": 0.0, "offset": 4.8},
    {"text": "a bird sings", "onset": 2.1, "offset": 9.95},
    {"text": "a car passes", "onset": 12.4, "offset": 15.0},
]
LABELS = {"age": "adult", "gender": "female", "pitch": "high", "speed": "fast", "emotion": "sad"}


def sound(question="Which animal is heard?", answer="A dog", wrong=("A cat", "A cow", "A hen"), **more) -> Draft:
    item = Item("Clotho", "a", "train", ("a.wav",), SCENE, **more)
    return Draft(item, question, answer, list(wrong), "sound")


def temporal(question: str, answer: str, *wrong: str) -> Draft:
    facts = {"event": "a car passes", "events": EVENTS}
    item = Item("TACOS", "a", "train", ("a.mp3",), ("a road",), facts, ("temporal",))
    return Draft(item, question, answer, list(wrong), "temporal")


def speech(question: str, answer: str, *wrong: str) -> Draft:
    item = Item("SpeechCraft", "a", "train", ("a",), ("A sad voice.",), {"labels": LABELS}, ("speech",))
    return Draft(item, question, answer, list(wrong), "speech")


@pytest.mark.parametrize(
    "draft",
    [
        sound(),
        sound("What falls on the roof?", "Rain", ("Hail", "Sand", "Snow")),
        sound("Is the dog near or far away?", "The dog is near", ("The dog is far away", "No dog at all", "Two dogs")),
        sound(
            "What is heard in all of the recording?", "Rain in all of the scene", ("A cat", "A cow", "Unknown birds")
        ),
        sound("How many times does the dog bark?", "2", ("3", "5", "7")),
        temporal("When does the first car passes begin?", "0.0s", "6.0s", "8.5s", "10.1s"),
        temporal("When does the bird stop?", "10s", "3s", "6s", "13s"),
        temporal("How long does the bird sing?", "7.9s", "2.2s", "3.9s", "12.0s"),
        temporal("How often does a car pass?", "2", "3", "4", "5"),
        temporal("What comes before the second car?", "a bird sings", "a dog barks", "a bell rings", "a door slams"),
        speech("What is the gender of the speaker?", "Female", "Male", "A child of unknown gender", "Several men"),
        speech("How fast is the speed of speech?", "Fast", "Slow", "Normal", "Uneven"),
        speech("Which emotion is heard?", "sadness", "anger", "joy", "fear"),
    ],
)
def test_good_questions_pass(draft):
    assert fault_of(draft) == "" and not talks_of_captions(draft)


@pytest.mark.parametrize(
    ("fault", "draft"),
    [
        ("options mean the same", sound(wrong=("the dog!", "A cow", "A hen"))),
        ("options mean the same", sound(wrong=("...", "A cow", "A hen"))),
        ("words of the form as options", sound(wrong=("question_type", "sound", "music"))),
        ("words of the form as options", sound(wrong=("Wrong answer 1", "A cow", "A hen"))),
        ("left over from writing", sound("Modified question: which animal barks?")),
        ("left over from writing", sound(wrong=("B) A cat", "A cow", "A hen"))),
        ("tags or signs in a text", sound("Which <audio> animal is heard?")),
        ("tags or signs in a text", sound(answer="{dog}")),
        ("cannot be determined", sound(wrong=("Cannot be determined", "A cow", "A hen"))),
        ("cannot be determined", sound(wrong=("None of the above", "A cow", "A hen"))),
        ("question gives the answer away", sound("Which dog barks here?", "The dog barks")),
        ("length gives the answer away", sound(answer="A large dog that barks twice while it rains")),
        ("kind gives the answer away", sound(wrong=("3 s", "14 s", "25 s"))),
        ("no question", sound("Animal?")),
        ("unrelated to the recording", sound("Which vehicle is it?", "A lorry")),
        ("time is wrong", temporal("When does the bird begin?", "3.4s", "6.0s", "8.5s", "13.1s")),
        ("time is wrong", temporal("When does the bird stop?", "2.1s", "6.0s", "8.5s", "13.1s")),
        ("time is wrong", temporal("When does the car begin?", "0.0s", "12.4s", "8.5s", "6.1s")),
        ("time is wrong", temporal("How often does a car pass?", "5", "4", "7", "8")),
        ("label is contradicted", speech("What is the gender of the speaker?", "Male", "Female", "Both", "A child")),
        ("label is contradicted", speech("Which emotion is heard?", "Sad", "sadness", "Angry", "Happy")),
        ("label is contradicted", speech("How loud is the volume?", "High", "Low", "Normal", "Silent")),
    ],
)
def test_faults_are_named(fault, draft):
    assert fault_of(draft) == fault


@pytest.mark.parametrize(
    ("text", "times"),
    [("21.2s", (21.2,)), ("at 3 seconds", (3,)), ("2.1 s to 4 s", (2.1, 4)), ("two dogs", None), ("3 dogs", None)],
)
def test_times_are_read(text, times):
    assert times_in(text) == times


def test_talk_of_captions_is_seen_in_every_text():
    draft = sound()
    for place in ("question", "answer", "analysis"):
        spoken = sound()
        setattr(spoken, place, "What the caption says")
        assert talks_of_captions(spoken)
    draft.chain = {"conclusion": "As described, a dog barks"}
    assert talks_of_captions(draft)


def test_of_equal_questions_the_first_stays_and_of_conflicting_ones_none():
    drafts = [sound(), sound("which  animal is heard"), sound("What falls?", "Rain"), sound("What falls?", "Snow")]
    repeats = Repeats.of(drafts)
    differ = "answers to one question differ"
    assert [repeats.fault(draft) for draft in drafts] == ["", "question is asked twice", differ, differ]


def test_one_recording_is_taken_from_one_source():
    def item(source: str, number: int, at, text="t") -> Draft:
        return Draft(Item(source, str(number), "train", ("a",), (f"{text} {number}",), origin="youtube:abc", at=at))

    drafts = [item("A", 1, (0, 10)), item("A", 2, (0, 10)), item("B", 3, (5, 15)), item("B", 4, (10, 20))]
    drafts.append(item("C", 5, None))
    reasons = [reason for _, reason in unique(drafts, {}, True)]
    assert reasons == ["", "", "recording is in A", "", "recording is in A"]
    assert [reason for _, reason in unique(drafts, {}, False)] == [""] * 5
    assert {reason for _, reason in unique(drafts, {"youtube:abc": "mmau.txt"}, True)} == {"excluded by mmau.txt"}


def test_canaries_are_the_drafts_with_one_fault():
    drafts = []
    for number in range(400):
        draft = sound()
        draft.item = Item("Clotho", str(number), "train", ("a",), (f"{SCENE[0]} {number}",))
        drafts.append(draft)
    found = list(canaries(drafts, 0.25, 400))
    assert 60 <= len(found) <= 140 and {kind for kind, _ in found} == set(KINDS)
    for kind, draft in found:
        changed = kind == "swapped caption"
        assert (draft.answer, draft.wrong) != ("A dog", ["A cat", "A cow", "A hen"]) or changed
    assert all(draft.answer == "A dog" and draft.wrong == ["A cat", "A cow", "A hen"] for draft in drafts)
    assert list(canaries(drafts, 0.0, 400)) == [] and len(list(canaries(drafts[:10], 0.01, 10))) >= 8


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ({"text": "B", "letters": {}, "finished": True}, True),
        ({"text": "(A) A cat", "letters": {}, "finished": True}, False),
        ({"text": "I do not know", "letters": {}, "finished": True}, False),
        ({"text": "A", "letters": {"A": -1.0, "B": -0.5, "E": -0.1}, "finished": True}, True),
        ({"text": "B", "letters": {"C": -0.5, "B": -0.9}, "finished": True}, False),
    ],
)
def test_a_probe_is_read_as_a_voter_is(value, right):
    """By what it says, or by the log-probs of the letters that were shown."""
    assert chosen(value, "A dog", ("A cat", "A dog", "A cow", "A hen")) is right


def test_a_probe_shows_the_right_option_once_in_every_place():
    places = [asked.shown.index("A dog") for asked in asked_of(sound(), 4)]
    assert sorted(places) == [0, 1, 2, 3]


def test_the_most_telling_lengths_go():
    """Of 10, 6 are longest; 3 of the 7 that are left are more than 0.3 of them, 1 of 5 and 2 of 7 are not."""
    telling = [(1.0 + number / 10, number) for number in range(6)]
    gone = balanced(telling, 10, 0.3)
    left = 6 - len(gone)
    assert left / (10 - len(gone)) <= 0.3 < (left + 1) / (10 - len(gone) + 1) and gone == set(range(left, 6))
    assert balanced(telling, 100, 0.3) == set() and balanced(telling, 6, 1.0) == set()


def test_the_chain_has_the_papers_form():
    draft = sound()
    draft.chain = {"question_reading": "The question asks for an animal.", "listening": "Hear the bark."}
    draft.chain["conclusion"] = "A dog barks."
    first, second, third = (
        "According to the question text, the question asks for an animal, so the question type is sound.",
        f"I need to firstly analyze the audio content: Hear the bark. {SCENE[0]}",
        'According to the audio content, a dog barks, so the correct answer is "A dog".',
    )
    wanted = f"<stage1>{first}<stage1><stage2>{second}<stage2><stage3>{third}<stage3>"
    assert structured(draft) == wanted
    assert structured(draft, closed=True).count("</stage") == 3
    assert told(temporal("", "").item).splitlines()[-1] == "- 12.4s to 15.0s: a car passes"
