"""``python -m minillm`` is the command ``minillm``."""

from minillm.command import main

if __name__ == "__main__":
    main()
