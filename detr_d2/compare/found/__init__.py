"""What the models say: raw detections of one pass, NMS afterwards, and a cache of both."""
