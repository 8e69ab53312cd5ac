"""The store: papers, their sightings and ranked lists, and the sources that they come from."""
