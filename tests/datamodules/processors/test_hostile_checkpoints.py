"""Checkpoints of strangers: templates that run for ever, sizes that no model has, code of their own, lost tensors.

What may take memory runs in a forked process.
"""

from __future__ import annotations

import json
import shutil
import time

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from earwitness.datamodules.processors import templates
from earwitness.datamodules.processors.omni import OmniProcessor
from earwitness.datamodules.processors.templates import rendered
from earwitness.errors import InputError
from earwitness.lightning_modules.policy.checkpoint import load_thinker, thinker_config
from earwitness.tests.limits import limited

LOOPS = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
GROWS = "{% set n = namespace(x='x' * 99999) %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}"
BAD = {
    "loops": LOOPS,
    "grows": GROWS,
    "power": "{{ 9 ** 9 ** 9 }}",
    "pads": "{{ '%999999999999d' % 1 }}",
    "escapes": "{{ messages.__class__.__mro__[-1].__subclasses__() }}",
    "refuses": "{{ raise_exception('no\x1b[2J') }}",
    "no jinja": "{% for",
    "long": "{{ 1 }}" * 99_999,
    "no place for the recording": "{{ messages[1].content[1].text }}",
}


@pytest.fixture
def checkpoint(small, tmp_path):
    shutil.copytree(small.tiny, tmp_path / "model")
    return tmp_path / "model"


def with_template(folder, template: str) -> None:
    for path in folder.glob("chat_template*"):
        path.unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))


@pytest.mark.parametrize("name", BAD)
def test_templates_are_bounded_in_time_and_memory(checkpoint, name, monkeypatch):
    monkeypatch.setattr(templates, "LIMIT_S", 1.0)
    with_template(checkpoint, BAD[name])
    since = time.monotonic()
    with pytest.raises(InputError, match="chat template") as refused:
        OmniProcessor.from_pretrained(checkpoint)
    assert time.monotonic() - since < 15 and str(refused.value).isprintable()


def test_templates_say_what_they_say_in_transformers(small):
    """With what published templates use: loops that stop, namespaces, filters, special tokens, a part of a text."""
    tokenizer = AutoTokenizer.from_pretrained(small.tiny, trust_remote_code=False)
    asked = [
        {"role": "system", "content": [{"type": "text", "text": "Bär <|im_end|> {{ 1 }}"}]},
        {"role": "user", "content": [{"type": "audio", "audio": ""}, {"type": "text", "text": "\x00"}]},
    ]
    for template in (
        tokenizer.chat_template,
        "{% set n = namespace(v=0) %}{%- for m in messages %}\n  {% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% set n.v = n.v + 1 %}{{ n.v }}{{ m | tojson }}{{ m.content[-1].text | trim }}{{ pad_token }}{{ eos_token }}"
        "{% generation %}said{% endgeneration %}{% endfor %}\n{% if add_generation_prompt %}go{% endif %}",
    ):
        tokenizer.chat_template = template
        for prompt in (True, False):
            theirs = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=prompt)
            assert rendered(tokenizer, asked, prompt) == theirs != ""


@pytest.mark.parametrize(
    ("file", "keys", "value"),
    [
        ("config.json", ("thinker_config", "text_config", "num_hidden_layers"), 10**9),
        ("config.json", ("thinker_config", "text_config", "hidden_size"), 10**12),
        ("config.json", ("thinker_config", "audio_config", "encoder_layers"), 10**6),
        ("preprocessor_config.json", ("n_fft",), 10**9),
        ("preprocessor_config.json", ("feature_size",), 10**7),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_made(checkpoint, file, keys, value):
    content = json.loads((checkpoint / file).read_text())
    node = content
    for key in keys[:-1]:
        node = node[key]
    assert keys[-1] in node
    node[keys[-1]] = value
    (checkpoint / file).write_text(json.dumps(content))

    def act() -> list[str]:
        said = []
        for read in (OmniProcessor.from_pretrained, thinker_config):
            with pytest.raises(InputError) as refused:
                read(checkpoint)
            said.append(str(refused.value))
        return said

    assert all(
        f"{keys[-1]} is {value:,}, no model has more" in said for said in limited(act, grows=1 << 29, seconds=20)
    )


def test_lost_renamed_and_reshaped_tensors_are_named_before_memory_is_taken(checkpoint):
    path = checkpoint / "model.safetensors"
    whole = load_file(path)
    lost = sorted(name for name in whole if "layers.1." in name)[:27]
    name = sorted(whole)[0]
    for changed, said in (
        ({n: t for n, t in whole.items() if n not in lost}, f"{len(lost)} tensors of the thinker are missing"),
        ({**whole, "thinker.model.extra.weight": whole[name].clone()}, "unknown to its config.json"),
        ({**whole, name: whole[name].flatten()[:1].clone()}, "of another shape than its config.json says"),
    ):
        save_file(changed, path, {"format": "pt"})
        with pytest.raises(InputError, match=said):
            load_thinker(checkpoint)


def test_code_of_a_checkpoint_is_never_run(checkpoint, tmp_path):
    """Neither asked for on the terminal, nor taken where it would be."""
    marker = tmp_path / "run"
    (checkpoint / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\nclass Model: pass\n")
    for file, kind in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        content = json.loads((checkpoint / file).read_text())
        content["auto_map"] = {kind: "evil.Evil", "AutoModel": "evil.Model", "AutoProcessor": "evil.Evil"}
        (checkpoint / file).write_text(json.dumps(content))
    try:
        OmniProcessor.from_pretrained(checkpoint)
        load_thinker(checkpoint)
    except InputError:
        pass
    assert not marker.exists()
