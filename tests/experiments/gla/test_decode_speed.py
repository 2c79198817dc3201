"""Names of the cases of the experiment on decoding."""

import pytest

from experiments.gla.decode_speed import Case


def test_a_case_is_what_its_name_says():
    case = Case.parse("b8_h4_k256_v512_bfloat16")
    assert case == Case(8, 4, 256, 512, "bfloat16")
    assert case.name == "b8_h4_k256_v512"


@pytest.mark.parametrize(
    "text", ["", "b8_h4_k256_v512", "b0_h4_k256_v512_float32", "b8_h4_float32"]
)
def test_other_names_are_refused(text):
    with pytest.raises(ValueError, match="b8_h4_k256_v512_bfloat16"):
        Case.parse(text)
