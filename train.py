"""Train an agent: `python train.py`. All settings: `python train.py --help`."""

from aem_gym.cli import train_main

if __name__ == "__main__":
    train_main()
