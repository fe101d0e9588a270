"""Turns the actions of `bazel aquery --output=jsonproto` on stdin into a compile_commands.json on stdout.

    compile_commands.py EXECUTION_ROOT
"""

import json
import sys

SOURCES = (".cc", ".cpp", ".c")


def main():
    directory = sys.argv[1]
    commands = {}
    for action in json.load(sys.stdin).get("actions", []):
        arguments = action["arguments"]
        source = arguments[arguments.index("-c") + 1]
        if source.endswith(SOURCES):
            # A precompiled header is for the very compiler that made it.
            if "-include-pch" in arguments:
                where = arguments.index("-include-pch")
                arguments = arguments[:where] + arguments[where + 2 :]
            # The first wins: a file that several targets compile is compiled the same way.
            commands.setdefault(source, {"directory": directory, "file": source, "arguments": arguments})
    json.dump([commands[source] for source in sorted(commands)], sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
