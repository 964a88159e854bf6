"""The Comfy Cloud accounts that jobs run on: their slots, their health, and who takes a job."""
