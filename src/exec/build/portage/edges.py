# Adds to each package of a plan which earlier ones it needs, and writes the plan: edges.py PLAN RESULT
#
# The list of `emerge --pretend` has the order and not the reasons, and the graph behind it is private to emerge. What is
# used here is what ebuilds and overlays have been written against for years: the dependency strings of the tree (aux_get), the
# flags that the configuration gives a package (setcpv), and the matching of atoms. Every need that is met by a package of the
# plan becomes an edge; one that a later package meets is left out, because the order has already decided about it.
import json
import sys

import portage
from portage.dep import Atom, match_from_list, use_reduce
from portage.versions import _pkg_str

KINDS = ["DEPEND", "BDEPEND", "IDEPEND", "RDEPEND", "PDEPEND"]

with open(sys.argv[1], encoding="utf-8") as file:
    plan = json.load(file)

tree = portage.db[portage.root]["porttree"].dbapi
settings = portage.config(clone=portage.settings)
found = []
for planned in plan["packages"]:
    name = planned["package"] + "-" + planned["revision"]
    found.append(_pkg_str(name, slot=planned["slot"], repo=planned["repository"]))

for position, planned in enumerate(plan["packages"]):
    if planned["kind"] != "ebuild":
        continue
    eapi, *needs = tree.aux_get(found[position], ["EAPI"] + KINDS, myrepo=planned["repository"])
    settings.setcpv(found[position], mydb=tree)
    flags = settings["PORTAGE_USE"].split()
    earlier = found[:position]
    positions = {str(one): index for index, one in enumerate(earlier)}
    edges = set()
    for text in needs:
        for atom in use_reduce(text, uselist=flags, eapi=eapi, flat=True, token_class=Atom):
            if isinstance(atom, Atom) and not atom.blocker:
                edges.update(positions[str(one)] for one in match_from_list(atom.without_use, earlier))
    edges.discard(position)
    planned["needs"] = sorted(edges)

with open(sys.argv[2], "w", encoding="utf-8") as file:
    json.dump(plan, file)
print("%d packages, %d edges" % (len(found), sum(len(planned["needs"]) for planned in plan["packages"])))
