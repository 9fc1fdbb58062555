"""The process that renders chat templates: a program of its own, which may take neither long nor much memory.

It reads lines of JSON, {"template", "variables"}, and answers each with {"text"} or {"error"}. Templates see what
transformers shows them: the same sandbox, filters and functions, but no clock.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

MEMORY, SECONDS, TEXT = 1 << 30, 30, 4 << 20


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> Any:
    import jinja2.ext
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda form: str(form)
    return made


def main() -> None:
    """Answers until standard input ends; a template that takes too much processor time or memory ends it."""
    made = _environment()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    for line in sys.stdin.buffer:
        try:
            asked = json.loads(line)
            text = made.from_string(asked["template"]).render(**asked["variables"])
            answer = {"text": text} if len(text) <= TEXT else {"error": f"its text has more than {TEXT:,} letters"}
        except MemoryError:
            answer = {"error": "it takes too much memory"}
        except Exception as error:  # whatever a template does
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
