"""Side by side with the limit: what the server costs beside a kernel that is driven directly."""
