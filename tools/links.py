"""Prints the links of Markdown files that lead nowhere: to no file, or to no heading of it. Ends with 1 if there are any.

  tools/links.py FILE...
"""

import pathlib
import re
import sys


def prose(path):
  """The text without blocks of code, where brackets are no links and # begins no heading."""
  return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)


def anchors(path):
  """The names that GitHub gives to the headings."""
  found = []
  for heading in re.findall(r"^#+ +(.*)$", prose(path), re.M):
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
    found.append(f"{name}-{found.count(name)}" if name in found else name)
  return found


dead = False
for name in sys.argv[1:]:
  for target in re.findall(r"\]\(\s*([^)\s]+)", prose(pathlib.Path(name))):
    if re.match(r"[a-z]+:", target):
      continue
    file, _, anchor = target.partition("#")
    path = pathlib.Path(name).parent / file if file else pathlib.Path(name)
    if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
      print(f"{name}: {target} leads nowhere")
      dead = True
sys.exit(dead)
