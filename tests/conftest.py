"""What tests share: the real scans, the command line, and reproducible property tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# No deadline: the first call of a torch kernel is slow. In CI the same examples on every run.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if IN_CI else "local")

RunCli = Callable[..., "subprocess.CompletedProcess[str]"]

# A run started in the background ignores Ctrl-C, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real scans: $MEDSR_DATA, else ../shared/data beside the repository. Absent: skip, in CI fail."""
    path = Path(os.environ.get("MEDSR_DATA") or ROOT.parent / "shared" / "data")
    if (path / "INDEX.csv").is_file():
        return path
    reason = f"no real scans: {path} has no INDEX.csv (set MEDSR_DATA)"
    if IN_CI:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def run_cli() -> RunCli:
    """Run ``python -m medsr`` as a user would, in a process of its own; gives returncode, stdout and stderr."""

    def run(
        *args: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "medsr", *map(str, args)],
            cwd=cwd,
            env=checkout_environment() | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def checkout_environment() -> dict[str, str]:
    """The environment in which a child process imports this checkout, whatever else is installed."""
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """For tests that start ``python -m medsr`` themselves: see ``checkout_environment``."""
    return checkout_environment()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights file of the smallest network, untrained but complete: mean, variance and sampler."""
    import torch

    from medsr.card import ModelCard, NetworkSpec
    from medsr.diffusion.conditions import FEATURES, residual_features
    from medsr.diffusion.model import save_model
    from medsr.diffusion.network import build_networks

    torch.manual_seed(0)
    card = ModelCard(
        name="tiny",
        version="0",
        network=NetworkSpec(width=32, blocks_top=1, blocks_bottom=1, embedding=16),
        has_sampler=True,
        residual_scale=(0.0,) * residual_features(torch.zeros(1, FEATURES)).shape[1],
    )
    networks = build_networks(card)
    tensors = {f"{part}.{name}": t for part, net in networks.items() for name, t in net.state_dict().items()}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(path, card, tensors)
    return path


class Browser:
    """A headless chromium. driver: selenium's; ``open`` starts from a clean page and clean logs."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, *, dark: bool = False, scripts: bool = True) -> None:
        """Load a file. dark: what the system prefers. scripts: whether the page may run any."""
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.errors(), self.requests()
        self.driver.get(page.as_uri())

    def errors(self) -> list[str]:
        """The errors on the console since the last look."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """The addresses that have been asked for since the last look, but for those that lie in the page itself."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Debian's chromium and its driver (apt-get install chromium chromium-driver). Absent: skip, in CI fail."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        reason = "no browser: chromium and chromedriver are not both on the path"
        if IN_CI:
            pytest.fail(reason)
        pytest.skip(reason)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # As root there is no sandbox, which is no loss for pages of our own; the rest keeps chromium from calling home.
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-quic",
                 "disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars",
                 "window-size=1280,900", f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    running.set_script_timeout(60)
    yield Browser(running)
    running.quit()
