"""For tests of your own environment: `check_text_env`."""

from aem_gym.env_checks import ContractError as ContractError
from aem_gym.env_checks import Violation as Violation
from aem_gym.env_checks import check_text_env as check_text_env
