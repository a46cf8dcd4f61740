"""Label ids with a special meaning. All other ids of a label map are classes 0..K-1.

- `IGNORE` marks an unknown class. It takes part in nothing. It is used for padding, unlabelled
  pixels, superpixels without labelled pixels, and samples that could not be drawn.
- `CONTRAST` marks a pixel that belongs to none of the classes, in photos where only some objects
  are labelled. It differs from every class. Two such pixels may or may not be alike, so a pair of
  them counts neither as equal nor as unequal, and a classifier has no target for them.
"""

IGNORE = 255
CONTRAST = 254
