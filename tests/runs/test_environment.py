from __future__ import annotations

import json

import numpy as np
import torch

from recbole_hellm.runs.environment import environment


def test_environment_can_be_written() -> None:
    described = json.loads(json.dumps(environment()))
    assert described["packages"]["torch"] == torch.__version__
    assert described["packages"]["numpy"] == np.__version__
