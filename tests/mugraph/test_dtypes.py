"""Element types promote as torch promotes them; the tables are there without PyTorch."""

from __future__ import annotations

import itertools
import pickle
import subprocess
import sys

import pytest
import torch

from superopt.errors import UnsupportedOperator
from superopt.mugraph.dtypes import DTYPES, from_torch, promote
from superopt.mugraph.late import Late
from superopt.mugraph.scalars import SCALARS


def test_every_pair_promotes_as_in_torch() -> None:
    tried = 0
    for a, b in itertools.product(DTYPES, repeat=2):
        want = torch.promote_types(DTYPES[a].torch, DTYPES[b].torch)
        assert DTYPES[promote(a, b)].torch == want, (a, b)
        tried += 1
    assert tried == len(DTYPES) ** 2 >= 100
    assert promote("i8") == "i8" and promote("bool", "u8", "bf16", "f16") == "f32"


def test_rows_are_found_by_torch_s_dtypes() -> None:
    assert all(from_torch(row.torch) is row for row in DTYPES.values())
    with pytest.raises(UnsupportedOperator, match="complex64"):
        from_torch(torch.complex64)


def test_late_functions_are_torch_s_own() -> None:
    """Each of the table exists, and answers as what it names."""
    late = {name: row.fn for name, row in SCALARS.items() if isinstance(row.fn, Late)}
    assert len(late) >= 30
    for fn in late.values():
        found = torch
        for part in fn.path:
            found = getattr(found, part)
        assert callable(found)
    assert SCALARS["exp"].fn(torch.zeros(())) == 1.0
    assert pickle.loads(pickle.dumps(Late("math", ("floor",))))(2.5) == 2
    assert Late("math").pi == Late("math", ("pi",))  # nothing is looked up before a call
    with pytest.raises(AttributeError):
        Late("math").no_such_function(1)


def test_a_worker_of_the_search_imports_no_torch() -> None:
    """It would take longer to import than most searches."""
    program = (
        "import sys\n"
        "import superopt.search.tasks, superopt.search.worker, superopt.cost.least\n"
        "import superopt.codegen.lower, superopt.search.driver\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
