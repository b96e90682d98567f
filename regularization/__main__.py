"""``python -m regularization``."""

import sys

if __name__ == "__main__":
    try:
        from regularization.cli.main import main

        main()
    except KeyboardInterrupt:
        # Ctrl-C while the imports are still under way.
        sys.exit(130)
