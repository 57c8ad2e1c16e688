"""The noisy spirals of Tan et al. (2020): the data set, and the builder of its series."""
