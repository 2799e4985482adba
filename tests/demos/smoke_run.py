"""demos/micro/make_checkpoint.py with the arguments given, also where espeak-ng is not installed.

Needs the repository and demos/micro on PYTHONPATH.
"""

from make_checkpoint import main

from tests.demos.stand_in import use_stand_in_unless_installed

if __name__ == "__main__":
    use_stand_in_unless_installed()
    main()
