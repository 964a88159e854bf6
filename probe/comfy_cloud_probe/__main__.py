"""`comfy-cloud-probe`, and the same as `python -m comfy_cloud_probe`."""

from comfy_cloud_probe.cli import main

if __name__ == "__main__":
    main()
