"""`python -m aem_gym.envs.webshop.conformance`; the same as `aem-gym webshop conformance`."""

from aem_gym.envs.webshop.authoring.conformance import main

if __name__ == "__main__":
    raise SystemExit(main())
