"""`python -m scorefield`: the command line, as `torchrun -m scorefield` starts it too."""

from scorefield.cli import main

if __name__ == "__main__":
    main()
