#!/usr/bin/env python3
"""A chapter may include common/ and the chapters below it, and nothing else; common/ includes no
chapter.

The linker sees to the rest: a chapter's programs and tests are linked with its own library and
those below it only.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main():
    wrong, files = [], 0
    chapters = sorted(p.name for p in ROOT.glob("[0-9][0-9]_*") if p.is_dir())
    for part in ["common"] + chapters:
        for path in sorted(
            p for p in (ROOT / part).rglob("*") if p.suffix in (".c", ".h", ".cu", ".cuh")
        ):
            files += 1
            # Exercises are compiled as if they lay in the chapter's directory: there, too, their
            # includes are looked for.
            places = [path.parent, ROOT / part, ROOT / part / "exercises"]
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                m = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
                if not m:
                    continue
                where = f"{path.relative_to(ROOT)}:{number}"
                target = next(
                    (t for t in ((d / m.group(1)).resolve() for d in places) if t.is_file()), None
                )
                if target is None or not target.is_relative_to(ROOT):
                    wrong.append(f"{where}: there is no file {m.group(1)}")
                    continue
                owner = target.relative_to(ROOT).parts[0]
                if owner == "common" or owner == part:
                    continue
                if part == "common":
                    wrong.append(f"{where}: common/ includes {owner}; common/ knows no chapter")
                elif owner not in chapters or owner > part:
                    wrong.append(
                        f"{where}: includes {owner}; {part} may use common/ and the chapters below it"
                    )
    print(
        "\n".join(wrong)
        if wrong
        else f"deps-check: {files} files, {len(chapters)} chapters, all includes point down"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
