import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.randomness import keyed_seed

keys = st.lists(st.integers() | st.text(), max_size=4)


@given(keys, keys)
def test_only_equal_keys_give_equal_seeds(first, second):
    assert (keyed_seed(*first) == keyed_seed(*second)) == (
        [(type(p), p) for p in first] == [(type(p), p) for p in second]
    )


@given(keys)
def test_a_seed_is_a_64_bit_number(key):
    assert 0 <= keyed_seed(*key) < 2**64


def test_a_seed_is_the_same_in_another_process():
    code = "from data.randomness import keyed_seed; print(keyed_seed(3, 'permutation', 14))"
    for hash_seed in ("1", "2"):
        printed = subprocess.check_output(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."}
        )
        assert int(printed) == keyed_seed(3, "permutation", 14)


def test_a_float_in_a_key_is_refused():
    with pytest.raises(TypeError, match="float"):
        keyed_seed(1, 0.5)
