"""One TOML file a profile: which pictures, which backbones, how long, how many. See `load_profile`."""

from sketchae.profiles.profile import TRACKED, Profile, find_root, load_profile, profile_names

__all__ = ["TRACKED", "Profile", "find_root", "load_profile", "profile_names"]
