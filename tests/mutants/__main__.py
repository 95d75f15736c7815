"""`make mutants`: every mutant against the tests that are named for it; a table, and how many were caught."""

import sys

from tests.mutants.catalogue import MUTANTS
from tests.mutants.hunt import hunt


def main() -> int:
    """Hunt all of them, a few at a time. 1 where one survives."""
    hunts = hunt(MUTANTS)
    for each in hunts:
        print(f"{each.mutant.name:<38} {each.caught_by or 'SURVIVED'}")
    survivors = [each for each in hunts if each.caught_by is None]
    for each in survivors:
        print(f"\n{each.mutant.name} was not caught:\n{each.output}")
    print(f"mutants: {len(hunts) - len(survivors)}/{len(hunts)} caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
