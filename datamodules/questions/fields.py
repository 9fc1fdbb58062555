"""Fields: how the columns of a file become the fields of a question, for annotation files and foreign tars alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

from ...configs.plugins import nearest, raised_by
from ...errors import InputError
from .formats import checked_encoding, listed
from .guesses import flags_for
from .layouts import COLUMNS, layout_named
from .options import READINGS, Evidence, Options, number_text, options_of, options_of_columns, place_of
from .question import OPTIONAL, REQUIRED, SPLITS, Kept, parse_question
from .segments import SEGMENT, Read, segment_of

FIELDS = (*REQUIRED, *OPTIONAL, "audio_path", *SEGMENT)
SKIP = "skip"
ColumnMap = Mapping[str, str | Sequence[str]]
_OURS = (*FIELDS, "audio-contribution", "columns", "unanswered", "as_published")
_SPLITS = {"train": "train", "training": "train", "val": "val", "validation": "val", "valid": "val", "dev": "val"}
_SPLITS |= {"development": "val", "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}


@dataclass(frozen=True)
class Fields:
    """How a file's columns are read.

    Args:
        columns: our field -> the file's column, {"structured_cot": "cot"}; several columns become the list of choices.
        constants: our field -> the value of every record, {"source_dataset": "lab"}.
        answer: how answers are written, one of `options.READINGS`, or "auto": the one reading by which all of them can
            be read, an error where there are several.
        keep: columns that go into the samples and the index; {"language": "lang"} keeps one under another name.
        splits: names of splits -> train, val, test, or skip: its records are left out.
        layout: of the records, see `layouts.py`.
        encoding: of a text file; "" is UTF-8, or what its byte order mark says.

    Raises InputError for names and values that make no sense.
    """

    columns: ColumnMap = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    answer: str = "auto"
    keep: Mapping[str, str] | Sequence[str] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    layout: str = "audiomcq"
    encoding: str = ""

    def __post_init__(self) -> None:
        for what, given in (("columns", list(self.columns)), ("constants", list(self.constants))):
            if unknown := [name for name in given if name not in FIELDS]:
                raise InputError(f"{what}: unknown field {unknown[0]!r}; the fields are {', '.join(FIELDS)}")
        for ours, theirs in self.columns.items():
            names = [theirs] if isinstance(theirs, str) else theirs
            if (
                not isinstance(names, Sequence)
                or not names
                or not all(name and isinstance(name, str) for name in names)
            ):
                raise InputError(f"columns: {ours} must be a column's name or a list of names, got {theirs!r}")
        if "id" in self.constants:
            raise InputError("constants: the id cannot be the same for every question; name its column")
        if both := [name for name in self.constants if name in self.columns]:
            raise InputError(f"{both[0]} is given a column and a constant; give one of them")
        if self.answer not in ("auto", *READINGS):
            raise InputError(f"answer: {nearest(self.answer, ('auto', *READINGS), 'it is one of')}")
        for name, split in self.splits.items():
            if split not in (*SPLITS, SKIP):
                raise InputError(f"splits: {name} must be {', '.join(SPLITS)} or {SKIP}, got {split!r}")
        if isinstance(self.keep, str) or not all(isinstance(name, str) and name for name in self.keep):
            raise InputError(f"keep: must be a list of column names, got {self.keep!r:.100}")
        checked_encoding(self.encoding)
        layout_named(self.layout)

    @classmethod
    def of(cls, given: Fields | Mapping[str, Any] | None) -> Fields:
        """The fields themselves, or those that a mapping names, as a YAML file or an index has them."""
        if isinstance(given, Fields):
            return given
        known = cls.__dataclass_fields__
        if unknown := [name for name in given or {} if name not in known]:
            raise InputError(f"fields: no entry {unknown[0]!r}; {nearest(unknown[0], known)}")
        return cls(**dict(given or {}))

    @property
    def kept(self) -> dict[str, str]:
        """Name of a kept column -> its name in the file."""
        return dict(self.keep) if isinstance(self.keep, Mapping) else {name: name for name in self.keep}

    @property
    def plain(self) -> bool:
        """Whether records are read as the AudioMCQ layout has them."""
        return not self.record()

    def record(self) -> dict[str, Any]:
        """What differs from the AudioMCQ layout, as JSON: `Fields.of` reads it back."""
        return {name: value for name, value in asdict(self).items() if value and value not in ("auto", "audiomcq")}


class FieldReader:
    """Reads the records of one source by some fields, and remembers which of their columns nobody asked for.

    reading: of the answers, once it is decided (see `decide`). carried: take letters off options that carry them.
    segments: read which part of its recording a question is about.
    """

    def __init__(self, fields: Fields, reading: str = "", carried: bool = True, segments: bool = False) -> None:
        self.fields, self.carried, self.segments = fields, carried, segments
        self.reading = reading or fields.answer
        self.convert: Callable[..., Any] = layout_named(fields.layout)
        self.kept = fields.kept
        self.seen: dict[str, int] = {}
        self.skipped = 0

    def decide(self, records: Any) -> None:
        """Decides how answers are written by (place, record, split) triples; InputError where they do not agree.

        At least 1,000 of them are looked at, and as many more as it takes until only one reading is left.
        """
        evidence = Evidence(unanswered=self.fields.layout != "audiomcq")
        for where, record, _ in records:
            try:
                options, fields = self._fields(record, where)
            except InputError:
                continue  # it will be named when it is read
            if options is not None:
                evidence.add(fields.get("answer"), options, where)
            if evidence.count >= 1_000 and evidence.decided():
                break
        self.reading = evidence.reading()

    def question(self, record: Any, where: str, split: str = "") -> Read | None:
        """A record's checked question with its recording; None where its split is left out.

        split: by the name of its file. Raises InputError that names `where`, the field, and the flag that helps.
        """
        if not isinstance(record, Mapping):
            return Read(parse_question(record, where))
        for name in record:
            self.seen[name] = self.seen.get(name, 0) + 1
        options, fields = self._fields(record, where)
        hint = self._answer(fields, options, where)
        chosen = self._split(fields, split)
        if chosen == SKIP:
            self.skipped += 1
            return None
        if self.kept:
            fields["columns"] = {**fields.get("columns", {}), **self._columns(record, where)}
        try:
            question = parse_question(fields, where)
            return Read(question, fields.get("audio_path", ""), segment_of(fields, where) if self.segments else None)
        except InputError as error:
            raise InputError(f"{error}{hint or self.hint(record, fields, str(error))}") from None

    def _fields(self, record: Any, where: str) -> tuple[Options | None, dict[str, Any]]:
        """The options, and the record with our names and without missing values; the answer is as the file has it."""
        if not isinstance(record, Mapping):
            raise InputError(f"{where}: a question must be a JSON object, got {type(record).__name__}")
        given = {name: value for name, value in record.items() if value is not None}
        fields = dict(given)
        if self.fields.layout != "audiomcq":
            fields = dict(_converted(self.convert, given, f"{where}: layout {self.fields.layout!r}"))
        options: Options | None = None
        carried = self.carried and fields.get("as_published") is not True
        for ours, theirs in self.fields.columns.items():
            names = [theirs] if isinstance(theirs, str) else list(theirs)
            missing = [name for name in names if name not in given and name not in fields]
            if missing and ours in (*OPTIONAL, *SEGMENT):
                fields.pop(ours, None)
                continue
            if isinstance(theirs, str) or ours != "choices":
                if missing and (ours != "answer" or self.reading != "none"):
                    raise InputError(f"{where}: no column {missing[0]!r} for {ours}; there are {listed(record)}")
                values = [given.get(name, fields.get(name)) for name in names]
                fields[ours] = values[0] if isinstance(theirs, str) else values
            else:
                if len(missing) == len(names):
                    raise InputError(f"{where}: no column {missing[0]!r} for {ours}; there are {listed(record)}")
                options = options_of_columns([given.get(name, fields.get(name)) for name in names], carried)
        fields |= self.fields.constants
        for name in ("id", "source_dataset"):
            if isinstance(value := fields.get(name), int | float) and not isinstance(value, bool):
                fields[name] = number_text(value)
        if options is None and fields.get("choices") is not None:
            column = self.fields.columns.get("choices", "choices")
            options = options_of(fields["choices"], f"{where}: column {column}", carried)
        if options is not None:
            fields["choices"] = options.texts
        return options, fields

    def _answer(self, fields: dict[str, Any], options: Options | None, where: str) -> str:
        """Puts the text of the right option in the place of the answer; returns what helps where there is none."""
        answer = fields.get("answer")
        if fields.get("unanswered") is True or options is None:
            return ""
        if self.reading == "none":
            if answer not in (None, ""):
                raise InputError(f"{where}: has the answer {answer!r:.80}, though none was announced (--answer none)")
            fields.pop("answer", None)
            fields["unanswered"] = True
            return ""
        if answer is None or answer == "":
            return "; --answer none reads a file without answers, to be asked and not judged"
        reading = "text" if self.reading == "auto" else self.reading
        place = place_of(answer, options, reading)
        if place is not None:
            fields["answer"] = options.texts[place]
            return ""
        if reading != "text":
            raise InputError(
                f"{where}: the answer {answer!r:.80} is none of the {len(options.texts)} options ({reading})"
            )
        others = [name for name in READINGS[1:4] if place_of(answer, options, name) is not None]
        return f"; give --answer {' or '.join(others)} if that is how answers are written" if others else ""

    def _split(self, fields: dict[str, Any], part: str) -> str:
        """The split of a record by its own word, else by its file's name; puts ours into the fields."""
        word = fields.pop("split", None)
        if word is None or word == "":
            word = part
        if not isinstance(word, str):
            fields["split"] = word
            return ""
        known = {**_SPLITS, **{name.lower(): split for name, split in self.fields.splits.items()}}
        if word:
            fields["split"] = known.get(word.lower(), word)
        return str(fields.get("split", ""))

    def _columns(self, record: Mapping[str, Any], where: str) -> dict[str, Kept]:
        """The kept columns of a record: texts, numbers and bools as they are, a list of texts as one text."""
        columns: dict[str, Kept] = {}
        for ours, theirs in self.kept.items():
            value = record.get(theirs)
            if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
                value = ", ".join(value)
            if value is None or value == "":
                continue
            if not isinstance(value, str | int | float | bool):
                raise InputError(f"{where}: column {theirs!r} cannot be kept: it holds {type(value).__name__}")
            columns[ours] = value
        return columns

    def hint(self, record: Mapping[str, Any], fields: Mapping[str, Any], error: str) -> str:
        """Which flag helps where an error is about a field that is missing or a split unknown; "" where none does."""
        split = fields.get("split")
        if isinstance(split, str) and split not in (*SPLITS, "") and split.isprintable():
            return f"; --split-map {split}=train reads it, --split-map {split}={SKIP} leaves it out"
        missing = [name for name in (*REQUIRED, "audio_path") if name not in fields]
        named = [name for name in missing if f"field '{name}'" in error or f"{name} must be a list" in error]
        if not named or not record:
            return ""
        return f"; there are {listed(record)}; give {flags_for(missing, record)}"

    def notes(self) -> list[str]:
        """One line each on columns that nobody asked for, on names that are nearly ours, and on what was left out."""
        used = {
            name for names in self.fields.columns.values() for name in ([names] if isinstance(names, str) else names)
        }
        layout = self.fields.layout
        if layout in COLUMNS:
            used |= set(COLUMNS[layout])
        elif layout == "audiomcq":
            used |= {name for name in _OURS if name not in self.fields.columns and name not in self.fields.constants}
        else:
            used |= set(self.seen)  # a layout of the user's takes what it wants
        unused = [name for name in self.seen if name not in used and name not in self.kept.values()]
        lines = []
        for name in unused if layout == "audiomcq" else ():
            word = re.sub(r"[\W_]+", "_", name).strip("_").lower()
            near = get_close_matches(word, [f for f in FIELDS if f not in self.seen], 1, 0.86)
            if near and near[0] not in (*self.fields.columns, *self.fields.constants):
                lines.append(f"column {listed([name])!r} is not {near[0]}; --column {near[0]}={name} reads it")
        if unused:
            lines.append(f"columns not used: {listed(unused)} (--keep NAME carries one into the index)")
        if self.skipped:
            lines.append(f"{self.skipped:,} records are of splits that are left out (--split-map)")
        return lines

    def check_kept(self) -> None:
        """Raises InputError for a column to keep that no record had."""
        for theirs in self.kept.values():
            if theirs not in self.seen:
                raise InputError(f"keep: no column {theirs!r}; there are {listed(self.seen)}")


def _converted(convert: Callable[..., Any], record: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The record in the AudioMCQ layout; what a layout of the user's stumbles over is a fault of the record."""
    function = getattr(convert, "function", convert)  # a user's, behind its guard
    try:
        converted = function(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{where} cannot read the record ({raised_by(function, error):.300})") from error
    if not isinstance(converted, Mapping):
        raise InputError(f"{where}: a question must be a JSON object, got {type(converted).__name__}")
    return {name: value for name, value in converted.items() if value is not None}
