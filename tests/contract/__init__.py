"""What every kind of resource, and the journal that lists them, must do."""
