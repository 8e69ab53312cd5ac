"""Teach a pruned model by the one it was: python distill_a_model.py TEACHER STUDENT OUT TEXT BUDGET"""

import sys

import paperlab

teacher, student, out, text, budget = sys.argv[1:]

made = paperlab.distill(teacher, student, out, data=text, budget=budget, rates=(1e-4, 1e-3), rows=1)

print(made.says())  # KL to the teacher before and after, the learning rate, the matrices whose zeros stayed
print(made.folder)  # a model folder like the student's, with distillation.json and a plot
