"""What the flags are guessed to be for columns under other names."""

import pytest

from earwitness.datamodules.questions.guesses import flags_for

ALL = ["source_dataset", "id", "question", "answer", "choices", "audio_path"]


@pytest.mark.parametrize(
    ("columns", "flags"),
    [
        (
            ["file", "text", "A", "B", "C", "D", "gold", "nr"],
            "--column id=nr question=text answer=gold choices=A,B,C,D audio_path=file --constant source_dataset=NAME",
        ),
        (
            ["Audio File", "Prompt", "option_2", "option_1", "option_3", "Label", "UID", "corpus"],
            "--column source_dataset=corpus id=UID question=Prompt answer=Label choices=option_1,option_2,option_3 "
            "audio_path=THEIRS",  # a blank in a column's name cannot be typed so
        ),
        (["b", "c"], "--column id=THEIRS question=THEIRS answer=THEIRS choices=THEIRS audio_path=THEIRS "
         "--constant source_dataset=NAME"),
    ],
)  # fmt: skip
def test_flags_are_guessed_from_the_names_of_columns(columns, flags):
    assert flags_for(ALL, columns) == flags
