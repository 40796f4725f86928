"""Tools around the two mini-projects."""
