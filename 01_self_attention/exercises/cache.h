/*
 * A cache to count with: 64 lines of 64 bytes (16 floats), and when it is full the line that was
 * used least recently makes room. Every access to a matrix of exercise 01.5 goes through it.
 */
#ifndef CACHE_H
#define CACHE_H

float load(const float *address);
void store(float *address, float value);

#endif
