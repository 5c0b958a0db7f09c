"""`python -m umemma` is the `umemma` command. torchrun starts it this way."""

from umemma.cli import main

if __name__ == "__main__":
    main()
