"""Every part composes, and every key of it is read."""

import re

import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from tests.helpers.configs import check_keys
from tests.helpers.paths import ROOT

SOURCES = "".join(p.read_text() for p in (ROOT / "faults").glob("*.py"))
PARTS = sorted(p.stem for p in (ROOT / "faults" / "conf" / "part").glob("*.yaml"))


@pytest.mark.parametrize("part", PARTS)
def test_every_part_is_read(part: str) -> None:
    with initialize_config_module("faults.conf", version_base="1.3"):
        cfg = compose("faults", overrides=[f"part={part}"])
    check_keys(cfg, SOURCES)
    cases = instantiate(cfg.part).cases(0)
    assert len({case.name for case in cases}) == len(cases) > 1


def test_make_runs_every_part() -> None:
    (parts,) = re.findall(r"^PARTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted(parts.split()) == PARTS
