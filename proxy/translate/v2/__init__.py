"""What API v2 says and takes, in the forms that the rest of the proxy has."""
