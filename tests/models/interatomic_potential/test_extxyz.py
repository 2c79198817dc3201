import io

import numpy as np
import pytest

from structlayers.models.interatomic_potential import read_extxyz

FRAMES = """2
Lattice="4 0 0 0 5 0 0 0 6" Properties=species:S:1:pos:R:3:forces:R:3 energy=-3.5 pbc="T T T"
O 0.0 0.0 0.0 0.5 0.0 0.0
H 0.0 0.0 1.0 -0.5 0.0 0.0
1
Properties=species:S:1:pos:R:3:forces:R:3 energy=-13.6
H 0.0 0.0 0.0 0.0 0.0 0.0
"""
RENAMED = """1
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:F:R:3 E=-1.5 S="1 2 3 2 4 5 3 5 6"
C 0.0 0.5 0.0 1.0 2.0 3.0
"""


def read(text, **keys):
    return read_extxyz(io.StringIO(text), **keys)


def test_values_under_their_usual_names():
    pair, atom = read(FRAMES)
    assert pair.numbers.tolist() == [8, 1]
    assert (pair.energy, atom.energy) == (-3.5, -13.6)
    np.testing.assert_array_equal(pair.forces, [[0.5, 0, 0], [-0.5, 0, 0]])
    np.testing.assert_array_equal(pair.cell, np.diag([4.0, 5.0, 6.0]))
    assert pair.periodic == (True, True, True)
    assert atom.periodic == (False, False, False)


def test_values_under_other_names():
    (atom,) = read(RENAMED, energy="E", forces="F", stress="S")
    assert atom.energy == -1.5
    np.testing.assert_array_equal(atom.forces, [[1, 2, 3]])
    np.testing.assert_array_equal(atom.stress, [[1, 2, 3], [2, 4, 5], [3, 5, 6]])


def test_stress_under_its_usual_name():
    (atom,) = read(RENAMED.replace("S=", "stress="), energy="E", forces="F", stress="stress")
    np.testing.assert_array_equal(atom.stress, [[1, 2, 3], [2, 4, 5], [3, 5, 6]])


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        (RENAMED, {}, r"frame 0 has no 'energy' for energy, only \['E', 'F', 'S'\]: pass energy="),
        (RENAMED, {"energy": "E"}, "frame 0 has no 'forces' for forces"),
        (FRAMES, {"stress": "virial"}, "frame 0 has no 'virial' for stress"),
        (FRAMES.replace(" energy=-13.6", ""), {}, "frame 1 has no 'energy'"),
        (FRAMES.replace("-13.6", "nan"), {}, "frame 1: energy must be finite, got nan"),
        (
            RENAMED.replace("2.0", "inf"),
            {"energy": "E", "forces": "F"},
            "frame 0: forces must be f",
        ),
        ("", {}, "source must hold at least one frame"),
    ],
)
def test_what_is_missing_is_an_error(text, keys, message):
    with pytest.raises(ValueError, match=message):
        read(text, **keys)


def test_values_that_nobody_asks_for():
    (atom,) = read(RENAMED, energy=None, forces=None)
    assert (atom.energy, atom.forces, atom.stress) == (None, None, None)
