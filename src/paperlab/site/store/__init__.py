"""The store: papers, their sightings and ranked lists, and where they come from."""
