"""Marks tests that render real Meta-World; importing it looks for a GL library that can."""

from __future__ import annotations

import pytest

from training.envs.real_env import choose_gl_backend

needs_gl = pytest.mark.skipif(choose_gl_backend() is None, reason="no GL library renders here")
