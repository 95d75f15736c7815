"""`python -m workers.cli` is `broker`, also where no script was installed."""

from workers.cli.start import main

if __name__ == "__main__":
    main()
