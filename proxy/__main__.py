"""`python -m proxy`: the same as `comfy-cloud-proxy`."""

from proxy.cli import main

if __name__ == "__main__":
    main()
