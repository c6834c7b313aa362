"""From runs to a statement: paired statistics and their wording. No TensorFlow."""
