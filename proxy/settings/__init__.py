"""The settings of the proxy: their tables, their values, and the accounts with their keys."""

from proxy.settings.account_keys import AccountKeys as AccountKeys
from proxy.settings.accounts import AccountAccess as AccountAccess
from proxy.settings.accounts import account_names as account_names
from proxy.settings.accounts import account_of as account_of
from proxy.settings.accounts import key_source as key_source
from proxy.settings.accounts import nodes_of as nodes_of
from proxy.settings.accounts import read_accounts as read_accounts
from proxy.settings.accounts import read_key as read_key
from proxy.settings.accounts import read_secrets as read_secrets
from proxy.settings.accounts import tables_of as tables_of
from proxy.settings.cloud import AccountSettings as AccountSettings
from proxy.settings.fields import ConfigError as ConfigError
from proxy.settings.fields import Setting as Setting
from proxy.settings.general import default_data_dir as default_data_dir
from proxy.settings.loading import LoadedSettings as LoadedSettings
from proxy.settings.loading import load as load
from proxy.settings.loading import load_with_sources as load_with_sources
from proxy.settings.model import ACCOUNT_SETTINGS as ACCOUNT_SETTINGS
from proxy.settings.model import PROVIDER_SETTINGS as PROVIDER_SETTINGS
from proxy.settings.model import SERVE_SETTINGS as SERVE_SETTINGS
from proxy.settings.model import SETTINGS as SETTINGS
from proxy.settings.model import Settings as Settings
from proxy.settings.model import pictures_folder as pictures_folder
from proxy.settings.model import record_options as record_options
from proxy.settings.sign_in import ProviderSettings as ProviderSettings
from proxy.settings.values import is_secure as is_secure
