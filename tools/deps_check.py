#!/usr/bin/env python3
"""Includes point down: a chapter uses common/ and the chapters below it, common/ no chapter, and a
room of chapter 10 the rooms below it.

Every path is written from the root. The linker sees to the rest: a chapter's programs and tests are
linked with its own library and those below it only.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What a room of chapter 10 may use, itself apart. Programs, tests, exercises and the chapter's own
# files use all of them; a room that is not listed here is used by nobody but them.
ROOMS = {
    "sparse": [],
    "model": ["sparse"],
    "data": [],
    "checkpoint": ["model", "sparse", "data"],
    "generate": ["checkpoint", "model", "sparse", "data"],
    "train": ["checkpoint", "model", "sparse", "data"],
    "reinforce": ["train", "checkpoint", "model", "sparse", "data"],
    "evaluate": ["generate", "checkpoint", "model", "sparse", "data"],
    "commands": ["reinforce", "evaluate", "train", "generate", "checkpoint", "model", "sparse", "data"],
}


def complaint(part, room, target, chapters):
    """Why a file in this part and room must not include target; "" when it may."""
    owner = target.parts[0]
    if owner == "common":
        return ""
    if part == "common":
        return f"includes {owner}; common/ knows no chapter"
    if owner not in chapters or owner > part:
        return f"includes {owner}; {part} may use common/ and the chapters below it"
    other = target.parts[1] if len(target.parts) > 2 else ""
    if owner == part and room in ROOMS and other != room and other not in ROOMS[room]:
        return f"includes {other or target.name}; {room}/ may use {', '.join(ROOMS[room]) or 'no other room'}"
    return ""


def main():
    wrong, files = [], 0
    chapters = sorted(p.name for p in ROOT.glob("[0-9][0-9]_*") if p.is_dir())
    for part in ["common"] + chapters:
        sources = [p for p in (ROOT / part).rglob("*") if p.suffix in (".c", ".h", ".cu", ".cuh")]
        for path in sorted(sources):
            files += 1
            name = path.relative_to(ROOT)
            room = name.parts[1] if part.startswith("10_") and len(name.parts) > 2 else ""
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                m = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
                if not m:
                    continue
                if not (ROOT / m[1]).is_file():
                    why = f"there is no file {m[1]}; paths are written from the root"
                else:
                    why = complaint(part, room, pathlib.PurePath(m[1]), chapters)
                if why:
                    wrong.append(f"{name}:{number}: {why}")
    print(
        "\n".join(wrong)
        if wrong
        else f"deps-check: {files} files, {len(chapters)} chapters, all includes point down"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
