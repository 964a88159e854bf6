"""Playwright's expectations, which look again until they are met, as long as every other wait."""

from __future__ import annotations

import pytest
from browser.frontend import TIMEOUT

expect = pytest.importorskip("playwright.async_api").expect
expect.set_options(timeout=TIMEOUT)
