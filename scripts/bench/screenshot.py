#!/usr/bin/env python3
"""Two pictures of a Job as a notebook shows it, in light and in dark, drawn by a headless browser.

    a job with failures ─► _repr_html_ ─► a page with a notebook's own rules ─► chromium ─► light.png, dark.png

Each picture is read back: it must have the theme's background, text on it, and enough contrast between the two.
Exit codes: 0 both are there and readable, 1 one is not, 2 there is no browser (on Debian: apt-get install chromium).
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1000, 620)
CONTRAST = 7.0  # WCAG's ratio for enhanced contrast
# What JupyterLab says of tables in outputs, with its colours for both themes.
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 16px; background: {back}; color: {text}; font: 13px/1.4 system-ui, sans-serif; }}
table {{ border-collapse: collapse; border: none; table-layout: fixed; margin: 0 auto 1em; font-size: 12px; }}
thead {{ border-bottom: 1px solid #888; vertical-align: bottom; }}
td, th, tr {{ vertical-align: middle; padding: .5em; text-align: right; white-space: normal; border: none; }}
tbody tr:nth-child(odd) {{ background: {stripe}; }}
</style>{table}"""
THEMES = {
    "light": {"back": "#ffffff", "text": "#212121", "stripe": "#f5f5f5"},
    "dark": {"back": "#111111", "text": "#e0e0e0", "stripe": "#1e1e1e"},
}


def table() -> str:
    """A job of which something failed, was slow, and was tried again."""
    from pywren_ng import Executor

    def task(number: int) -> float:
        time.sleep(0.002 * (number % 7))
        if number % 29 == 3:
            raise ValueError(f"row {number} has no <label> & no weight")
        return 1 / (number - 50)

    with Executor("local", max_workers=4, retries=1, retry_on=ZeroDivisionError, name="fit") as ex:
        job = ex.map(task, range(100))
        job.results(return_exceptions=True)
        return job._repr_html_()


def picture(browser: str, page: Path, target: Path) -> None:
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    options += [f"--user-data-dir={page.parent}/profile", f"--window-size={SIZE[0]},{SIZE[1]}"]
    command = [browser, *options, f"--screenshot={target}", page.as_uri()]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if not target.exists():
        raise SystemExit(f"screenshot.py: {browser} made no picture:\n{ran.stderr[-2000:]}")


def luminance(colour: tuple[int, ...]) -> float:
    """As WCAG defines it."""
    parts = [part / 255 for part in colour[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(path: Path, theme: dict[str, str]) -> float:
    """Between the background, which must be the theme's, and the strongest colour that stands on it; 0 if it is not."""
    import matplotlib.image

    pixels = matplotlib.image.imread(path)
    looked_at = (pixel[:3] for line in pixels[::2] for pixel in line[::2])
    colours = Counter(tuple(round(255 * float(part)) for part in pixel) for pixel in looked_at)
    back = colours.most_common(1)[0][0]
    if f"#{bytes(back).hex()}" != theme["back"]:
        return 0.0
    written = [colour for colour, count in colours.items() if count >= 20 and colour != back]
    base = luminance(back)
    ratios = [(max(base, each) + 0.05) / (min(base, each) + 0.05) for each in map(luminance, written)]
    return max(ratios, default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    asked = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"screenshot.py: no browser: none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 2
    asked.folder.mkdir(parents=True, exist_ok=True)
    shown, found = table(), {}
    with tempfile.TemporaryDirectory() as own:
        for name, theme in THEMES.items():
            page, target = Path(own, f"{name}.html"), (asked.folder / f"job-{name}.png").absolute()
            page.write_text(PAGE.format(table=shown, **theme))
            target.unlink(missing_ok=True)
            picture(browser, page, target)
            found[name] = contrast(target, theme)
    is_met = min(found.values()) >= CONTRAST
    said = ", ".join(f"{name} {ratio:.1f}" for name, ratio in found.items())
    print(f"pictures in {asked.folder}")
    print(f"3b  contrast of text: {said} (≥ {CONTRAST:g})  {'PASS' if is_met else 'FAIL'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
