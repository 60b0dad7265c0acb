"""A config.json that is not as it should be is an error that names it."""

import json

import pytest
from test_golden import GOLDEN

from embed import hf


def paths(fields, before=()):
    for name, value in fields.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from paths(value, (*before, name))


@pytest.mark.parametrize("kind", ["embeddinggemma2", "gemma4_e2b"])
def test_every_field_of_a_config_is_checked(tmp_path, kind):
    """Absent, null, or of another kind, a field gives an architecture or an error that names the file and a field."""
    text, refused = (GOLDEN / kind / "config.json").read_text(), 0
    for path in paths(json.loads(text)):
        for other in (..., None, "x", [], {"a": 1}, 0, 10**12):
            config = json.loads(text)
            fields = config
            for name in path[:-1]:
                fields = fields[name]
            if other is ...:
                del fields[path[-1]]
            else:
                fields[path[-1]] = other
            (tmp_path / "config.json").write_text(json.dumps(config))
            try:
                hf.read_architecture(tmp_path)
            except hf.HubError as error:
                refused += 1
                assert str(error).startswith(f"{tmp_path / 'config.json'}: ")
    assert refused > 100
