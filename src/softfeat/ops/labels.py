"""Label ids with a meaning of their own. All other ids of a label map are classes 0..K-1.

- `IGNORE` has no known class. It takes part in nothing: padding, unlabelled pixels, superpixels
  without labelled pixels, and draws that found no pixel.
- `CONTRAST` is known to be none of the classes, but it is not one thing: the rest of a photo whose
  objects are labelled. It differs from every class. Two members of it may or may not be alike, so
  such a pair counts neither as equal nor as unequal, and a classifier has no target for it.
"""

IGNORE = 255
CONTRAST = 254
