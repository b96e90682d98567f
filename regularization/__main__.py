"""``python -m regularization``."""

import os
import sys

if __name__ == "__main__":
    # Python has put the working directory first. It may hold the user's own modules, but also those of someone else:
    # none of them must be imported in place of an installed one.
    if sys.path[0] == os.getcwd():
        sys.path.append(sys.path.pop(0))
    try:
        from regularization.cli.main import main

        main()
    except KeyboardInterrupt:
        # Ctrl-C while the imports are still under way.
        sys.exit(130)
