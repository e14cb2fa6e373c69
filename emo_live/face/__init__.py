"""From any picture to one face: loading, finding, choosing and cropping. Knows nothing of engines or sound."""
