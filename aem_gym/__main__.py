"""`python -m aem_gym` is `aem-gym`."""

from aem_gym.cli import main

main()
